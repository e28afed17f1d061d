"""Deletes expired rows, batch by batch and with little of the database's time.

Every replica prunes. Locked rows are skipped, so replicas share the work and nothing waits for them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from shared.postgres.clocks import HostClock
from shared.postgres.connections import Connection, Pool
from shared.process.tasks import LoopSupervisor

BATCH_MAX = 500  # rows deleted at a time, so that no delete holds its locks for more than some milliseconds
PASS_SECONDS = 60.0  # between two passes; retention counts in days, so nothing is urgent
# The pause after a batch, in multiples of the batch's time. So pruning uses at most a fifth of one connection.
REST = 4.0
PRUNED = Counter("rows_pruned_total", "Rows that were past their time and were deleted", ["what"])

# Takes the last key of the batch before and a limit; deletes rows, and returns their keys in ascending order.
Prune = Callable[[Connection, Any, int], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Pruning:
    """One kind of row: its name, a key below those of all rows, and a function that deletes a batch.

    Each batch begins after the one before it, so that no pass reads deleted rows that are not vacuumed yet.
    """

    what: str
    first: Any
    prune: Prune


class Pruner:
    """Prunes several kinds of rows. `before` runs once at the beginning of each pass, in its own transaction."""

    def __init__(
        self, pool: Pool, prunings: Sequence[Pruning], before: Callable[[Connection], Awaitable[None]] | None = None
    ) -> None:
        self._pool = pool
        self._prunings = prunings
        self._before = before
        self._host_clock = HostClock()

    async def run(self) -> None:
        """Prune for ever."""
        supervisor = LoopSupervisor("pruner", "pruning.failed")
        while True:
            with supervisor:
                await self.prune_all()
            await asyncio.sleep(supervisor.pause(PASS_SECONDS))

    async def prune_all(self) -> None:
        """Delete all expired rows. Raises Unavailable, also while the clocks disagree: if the database's clock is
        ahead, rows would expire too early, and deleted rows are lost."""
        async with self._pool.connection() as db:
            await self._host_clock.compare_and_check(db)
        if self._before is not None:
            async with self._pool.transaction() as db:
                await self._before(db)
        for pruning in self._prunings:
            await self._prune(pruning)

    async def _prune(self, pruning: Pruning) -> None:
        loop = asyncio.get_running_loop()
        after, count = pruning.first, BATCH_MAX
        while count == BATCH_MAX:
            began = loop.time()
            async with self._pool.transaction() as db:
                places = await pruning.prune(db, after, BATCH_MAX)
            count = len(places)
            if places:
                after = places[-1]
                PRUNED.labels(pruning.what).inc(count)
            if count == BATCH_MAX:
                await asyncio.sleep(REST * (loop.time() - began))
