"""A batch whose commands are in part applied by the fast path: their outcomes are kept even if the others fail."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from shared.participant.executor import CommandExecutor
from shared.participant.protocol import Outcome
from shared.refusals import Unavailable
from tests.unit.shared.test_protocol import GATE, OTHER, Do

APPLIED = Outcome(True, {})


class Session:
    """Stands in for one to Postgres: the connection is not used."""

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[None]:
        yield

    transaction = statement


def executor(applied: Mapping[UUID, Outcome], failure: Exception) -> CommandExecutor[Do]:
    """Return one whose fast path applies these, and whose transactions fail."""

    async def fast_path(_: Any, _commands: Sequence[Do]) -> Mapping[UUID, Outcome]:
        return applied

    async def execute(_: Any, _commands: Sequence[Do]) -> Sequence[Outcome]:
        raise failure

    session: Any = Session()
    return CommandExecutor(session, execute, fast_path)


@pytest.mark.parametrize("failure", [Unavailable("away"), ValueError("a bug")], ids=["transient", "bug"])
async def test_outcomes_of_applied_commands_are_known_although_the_others_fail(failure: Exception) -> None:
    async with executor({GATE: APPLIED}, failure) as commands:
        assert await commands.run([Do(OTHER), Do(GATE)]) == [None, APPLIED]


async def test_batch_without_any_known_outcome_is_unavailable() -> None:
    async with executor({}, Unavailable("away")) as commands:
        with pytest.raises(Unavailable):
            await commands.run([Do(OTHER), Do(GATE)])


async def test_batch_that_fails_as_a_whole_raises() -> None:
    """Then its span is a failed one."""
    async with executor({}, ValueError("a bug")) as commands:
        with pytest.raises(ValueError, match="a bug"):
            await commands._run_batch([Do(OTHER)])


@pytest.mark.parametrize(
    ("failure", "executed"),
    [(asyncpg.CheckViolationError(), 2), (Unavailable("away"), 0)],
    ids=["of a command", "of the server"],
)
async def test_transaction_follows_a_fast_path_that_a_command_made_fail(failure: Exception, executed: int) -> None:
    transactions: list[Do] = []

    async def fast_path(_: Any, _commands: Sequence[Do]) -> Mapping[UUID, Outcome]:
        raise failure

    async def execute(_: Any, commands: Sequence[Do]) -> Sequence[Outcome]:
        transactions.extend(commands)
        return [APPLIED] * len(commands)

    session: Any = Session()
    async with CommandExecutor(session, execute, fast_path) as commands:
        with nullcontext() if executed else pytest.raises(Unavailable):
            await commands.run([Do(OTHER), Do(GATE)])
    assert len(transactions) == executed
