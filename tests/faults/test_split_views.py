"""Two primaries at once, and an order process on each: every saga ends once, and all books balance."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from uuid import UUID

import pytest

from services.order.domain import OrderStatus
from shared.postgres import connecting
from tests.faults.matrix.cells import Course, scenarios
from tests.faults.split.cells import Act, Cell, Moment, cells
from tests.faults.split.play import LIVE, STATUSES, SplitView, read, split_view
from tests.infrastructure.books import violations
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.two_primaries import TwoPrimaries
from tests.infrastructure.waiting import eventually

SECONDS = 30
ALL = bool(os.environ.get("POINTS_ALL"))
# For `make test`: coprime to the numbers of moments, places, points and acts, so that all combinations are among them.
EVERY = 5
PLAYED = cells() if ALL else cells()[::EVERY]


def test_no_command_of_any_saga_is_left_out() -> None:
    for scenario in scenarios():
        if scenario.course is not Course.FORCED:
            assert {cell.command for cell in PLAYED if cell.scenario == scenario} == set(scenario.commands)
    combined = {(cell.moment, cell.place, cell.point, cell.act) for cell in PLAYED}
    assert combined == {(cell.moment, cell.place, cell.point, cell.act) for cell in cells()}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("paused", [False, True], ids=["cut off", "paused and woken"])
async def test_every_saga_ends_once_with_a_process_on_each_of_two_primaries(
    paused: bool, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "COMMAND_TIMEOUT_SECONDS", 2.0)  # A gives up and tries again while it is split
    two = await asyncio.to_thread(TwoPrimaries, reaper)
    try:
        async with split_view(two) as view:
            await check(view, two, paused=paused)
    finally:
        await asyncio.to_thread(two.stop)


async def check(view: SplitView, two: TwoPrimaries, *, paused: bool) -> None:
    """Split the view while A's sagas stand at their points, let both processes go on, and compare all books."""
    arrived, lost = [await view.placement(key) for key in ("arrived", "lost")]
    orders = await view.stand(PLAYED)
    await view.lose_acknowledgements()
    await view.go_on(Moment.UNACKNOWLEDGED)
    first = view.begin_at_a(arrived)
    for what in ("order starts", "order transitions"):
        await eventually(partial(asyncio.to_thread, two.commits_waiting, what), SECONDS, f"a commit of {what}")
    await asyncio.to_thread(two.until_replicated)
    with two.paused() if paused else nullcontext():
        await view.promote()
        unheard = await read(two.new, LIVE)
        second = view.begin_at_a(lost)
        await view.force(of(orders, Act.FORCED))
        view.network.opened[Moment.BOTH].set()
        await view.take_over()
        await view.cancel(of(orders, Act.CANCELLED))
        for start in (arrived, lost):
            await view.same_customer_at_b(start)
    await view.go_on(Moment.BOTH)
    await view.go_on(Moment.LATE)
    # Of the first attempt, and, unless A has found no answer there meanwhile, of the next one.
    attempts = 1 if paused else 2
    await eventually(lambda: tried(two, attempts), SECONDS, "commits of A's on the former primary")
    owned = await read(two.old, LIVE)
    # Two processes own the same sagas: A on the former primary, and on the new one B did, and has ended them.
    assert set(owned.values()) == {view.a.process_id}
    assert owned.keys() & unheard.keys()
    assert owned.keys() - unheard.keys(), "some commits reached the standby, and A was not told"
    assert await read(two.new, LIVE) == {}
    await view.rejoin("immediate" if paused else "fast")
    await asyncio.gather(first, second)
    assert view.network.told == []
    assert view.network.fenced > 0, "late commands of A's reached participants of the new primary"
    one_more = await view.one_more_order()
    print(
        f"{len(orders)} sagas: {len(owned)} live on the former primary; {len(owned.keys() - unheard.keys())} ended by "
        f"commits of which nobody was told; {view.network.fenced} late commands fenced"
    )
    statuses = {order: OrderStatus(status) for order, status in (await read(two.new, STATUSES)).items()}
    wrong = {str(cell): statuses[order] for order, cell in orders.items() if statuses[order] is not cell.end}
    assert wrong == {}
    assert statuses[one_more] is OrderStatus.PAID
    assert await violations(two.new.url) == []


def of(orders: Mapping[UUID, Cell], act: Act) -> list[UUID]:
    """Return the orders of the cells with that act."""
    return [order for order, cell in orders.items() if cell.act is act]


async def tried(two: TwoPrimaries, attempts: int) -> bool:
    return await asyncio.to_thread(two.sessions, "order transitions") >= attempts
