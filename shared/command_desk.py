"""The participant protocol's other half: takes batches of commands and runs each as one transaction.

Concurrent calls (one from each replica that asks) are merged by a batcher, so that a participant has one
batch in flight whatever the number of its callers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic

import structlog
from prometheus_client import Counter

from shared.batcher import Batcher, one_by_one_when
from shared.participant import C, Outcome
from shared.postgres import Connection, Session, is_about_the_batch
from shared.refusals import Unavailable

log = structlog.get_logger()

BATCH_MAX = 256  # past this the latency of a batch grows faster than throughput
QUEUE_MAX = 4096  # about a second of work; beyond it a caller does better to hear 503 at once
OUTCOMES = Counter("commands_total", "Commands by outcome", ["type", "outcome"])

Execute = Callable[[Connection, Sequence[C]], Awaitable[Sequence[Outcome]]]


class CommandDesk(Generic[C]):
    """Runs commands in batches. `execute` decides and writes one batch inside the transaction it is given."""

    def __init__(self, session: Session, execute: Execute[C], *, batch_max: int = BATCH_MAX) -> None:
        self._session = session
        self._execute = execute
        self._batcher: Batcher[C, Outcome] = Batcher(
            "commands",
            one_by_one_when(is_about_the_batch, self._run_transaction),
            batch_max=batch_max,
            queue_max=QUEUE_MAX,
        )

    async def __aenter__(self) -> "CommandDesk[C]":
        await self._batcher.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._batcher.__aexit__(*exc)

    async def run(self, commands: Sequence[C]) -> list[Outcome | None]:
        """Run the commands and return an outcome each, in their order; None where it is unknown.

        Raises Unavailable when nothing is known of any of them. The caller repeats what is unknown until it
        is known.
        """
        results = await asyncio.gather(*map(self._submit, commands), return_exceptions=True)
        outcomes: list[Outcome | None] = []
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, Outcome):
                outcomes.append(result)
                OUTCOMES.labels(command.type, "applied" if result.applied else "refused").inc()
                continue
            outcomes.append(None)
            OUTCOMES.labels(command.type, "unknown").inc()
            if not isinstance(result, Unavailable):
                log.error("command failed", type=command.type, gate=str(command.gate), error=repr(result))
        if outcomes and all(outcome is None for outcome in outcomes):
            raise Unavailable("The database did not answer; nothing is known of these commands.")
        return outcomes

    def _submit(self, command: C) -> "asyncio.Future[Outcome]":
        try:
            return self._batcher.submit(command)
        except Unavailable as full:
            # Only this one is unknown: those before it are on their way and have a waiter.
            refused: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            refused.set_exception(full)
            return refused

    async def _run_transaction(self, commands: Sequence[C]) -> Sequence[Outcome | BaseException]:
        async with self._session.transaction() as connection:
            return await self._execute(connection, commands)
