"""Runs batches of commands in as few round trips to the database as possible.

A batcher merges concurrent calls (one from each replica of the order service), so that a participant has one batch in
flight. Commands that succeed independently of the others take the fast path, which is one statement. The others go
through a transaction.
"""

from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

import structlog
from prometheus_client import Counter

from shared.batcher import Batcher, one_by_one_when
from shared.participant import protocol
from shared.participant.gates import Gates
from shared.participant.protocol import Batch, C, Outcome, alone
from shared.postgres.connections import Connection, Session
from shared.postgres.errors import is_about_the_batch
from shared.refusals import Unavailable

log = structlog.get_logger()

BATCH_MAX = 256  # past this the latency of a batch grows faster than throughput
QUEUE_MAX = 4096  # about a second of work; beyond it an early 503 serves the caller better
OUTCOMES = Counter("commands_total", "Commands by outcome", ["type", "outcome"])

Execute = Callable[[Connection, Sequence[C]], Awaitable[Sequence[Outcome]]]
FastPath = Callable[[Connection, Sequence[C]], Awaitable[Mapping[UUID, Outcome]]]
B = TypeVar("B", bound=Batch)


async def execute(
    db: Connection,
    commands: Sequence[C],
    *,
    gates: Gates,
    lock: Callable[[Connection, Sequence[C], Sequence[UUID], datetime], Awaitable[B]],
    write: Callable[[Connection, B], Awaitable[None]],
) -> Sequence[Outcome]:
    """Decide and write a batch in the caller's transaction; return one outcome per command.

    The protocol is safe only with this order of locks and reads. One statement inserts the gates, the next one locks
    them, and later ones read everything else. So a batch that waited for a lock reads what the lock's previous holder
    wrote. `lock` takes the commands, the gates that they undo, and the transaction's time. It locks and reads what the
    commands concern. `write` writes what they changed of it.
    """
    ids = sorted({command.gate for command in commands})
    await gates.open_gates(db, ids)
    closed, past, now = await gates.lock_gates(db, ids)
    undone = [command.gate for command in commands if command.undo and command.gate not in closed]
    batch = await lock(db, commands, undone, now)
    stored = await gates.read_outcomes(db, ids)
    verdict = protocol.decide(commands, closed, stored, batch.do, batch.undo, past)
    await gates.write_verdict(db, verdict)
    await write(db, batch)
    return verdict.outcomes


class CommandExecutor(Generic[C]):
    """Runs commands in batches.

    `fast_path` gets dos, each the only command of its gate in the batch. With one statement outside a transaction, it
    applies those that succeed independently of the others, and returns their outcomes by gate. `execute` decides and
    writes the other commands inside a given transaction.
    """

    def __init__(
        self, session: Session, execute: Execute[C], fast_path: FastPath[C], *, batch_max: int = BATCH_MAX
    ) -> None:
        self._session = session
        self._execute = execute
        self._fast_path = fast_path
        self._run_rest = one_by_one_when(is_about_the_batch, self._run_transaction)
        self._batcher: Batcher[C, Outcome] = Batcher(
            "commands", self._run_batch, batch_max=batch_max, queue_max=QUEUE_MAX
        )

    async def __aenter__(self) -> "CommandExecutor[C]":
        await self._batcher.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._batcher.__aexit__(*exc)

    async def run(self, commands: Sequence[C]) -> list[Outcome | None]:
        """Run the commands and return their outcomes in the same order, None for an unknown one.

        Raises Unavailable if all outcomes are unknown. The caller repeats commands until their outcomes are known.
        """
        try:
            results = await self._batcher.submit_all(commands)
        except Unavailable as full:
            results = [full] * len(commands)
        tally: Tally[tuple[str, str]] = Tally()
        outcomes: list[Outcome | None] = []
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, Outcome):
                outcomes.append(result)
                tally[command.type, "applied" if result.applied else "refused"] += 1
                continue
            outcomes.append(None)
            tally[command.type, "unknown"] += 1
            if not isinstance(result, Unavailable):
                log.error("command.execution_failed", type=command.type, gate=str(command.gate), error=repr(result))
        for labels, count in tally.items():
            OUTCOMES.labels(*labels).inc(count)
        if outcomes and all(outcome is None for outcome in outcomes):
            raise Unavailable("The database did not answer; nothing is known of these commands.")
        return outcomes

    async def _run_batch(self, commands: Sequence[C]) -> Sequence[Outcome | BaseException]:
        applied = await self._apply_independent(commands)
        rest = [command for command in commands if command.gate not in applied]
        if not rest:
            return [applied[command.gate] for command in commands]
        results: Sequence[Outcome | BaseException]
        try:
            results = await self._run_rest(rest)
        except Exception as error:
            if not applied:
                raise
            results = [error] * len(rest)  # the outcomes of applied commands are known
        others = iter(results)
        return [applied[command.gate] if command.gate in applied else next(others) for command in commands]

    async def _apply_independent(self, commands: Sequence[C]) -> Mapping[UUID, Outcome]:
        candidates = alone(commands)
        if not candidates:
            return {}
        try:
            async with self._session.statement() as connection:
                return await self._fast_path(connection, candidates)
        except Exception as error:
            if not is_about_the_batch(error):
                raise
            # Nothing was written. The transaction finds the command that causes the error.
            log.warning("batch.fast_path_failed", size=len(candidates), error=repr(error))
            return {}

    async def _run_transaction(self, commands: Sequence[C]) -> Sequence[Outcome | BaseException]:
        async with self._session.transaction() as connection:
            return await self._execute(connection, commands)
