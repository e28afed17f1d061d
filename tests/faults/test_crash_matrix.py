"""With every fault at every point of every step, each saga ends in one outcome, and all books balance."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.order.saga import STEPS, UNDONE, Kind
from tests.faults.matrix.cells import Fault, Point, Scenario, cells, scenarios
from tests.faults.matrix.play import play
from tests.faults.matrix.rig import Rig, built
from tests.infrastructure.books import violations
from tests.infrastructure.databases import Database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(database: Database) -> AsyncIterator[Rig]:
    """Make what all cells share."""
    async with built(database) as rig:
        yield rig


def test_no_step_of_any_saga_is_left_out() -> None:
    drawn = {(scenario.kind, command) for scenario in scenarios() for command in scenario.commands}
    dos = {(kind, step.do) for kind in Kind for step in STEPS[kind]}
    undos = {(kind, step.undo) for kind in Kind for step in UNDONE[kind]}
    assert drawn == dos | undos
    for scenario in scenarios():
        struck = {(cell.command, cell.point, cell.fault) for point in Point for cell in cells(scenario, point)}
        assert struck == set(itertools.product(scenario.commands, Point, Fault))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("point", Point)
@pytest.mark.parametrize("scenario", scenarios(), ids=str)
async def test_every_cell_ends_in_one_outcome(rig: Rig, scenario: Scenario, point: Point) -> None:
    struck = cells(scenario, point)
    results = await asyncio.gather(*(play(rig, cell) for cell in struck), return_exceptions=True)
    failed = [f"{cell}: {result!r}" for cell, result in zip(struck, results, strict=True) if result is not None]
    assert failed == []
    assert await violations(rig.database.url) == []
