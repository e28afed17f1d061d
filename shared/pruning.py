"""Deletes what is past its time: batch by batch, beside the service's work and never before it.

Every replica prunes. Rows in use are left out, so that two that meet share the work and nobody waits for either.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from shared.background import LoopSupervisor
from shared.host_clock import HostClock
from shared.postgres import Connection, Pool

BATCH_MAX = 500  # rows deleted at a time, so that no delete holds its locks for more than some milliseconds
PASS_SECONDS = 60.0  # from the end of a pass to the next: little is due at a time, in days nothing is urgent
# After each batch this many times as long as it took: pruning gets a fifth of one connection at the most.
REST = 4.0
PRUNED = Counter("rows_pruned_total", "Rows that were past their time and were deleted", ["what"])

# Takes where the last batch ended and a limit; deletes, and returns the places of what it deleted, ascending.
Prune = Callable[[Connection, Any, int], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Pruning:
    """One kind of row: its name, the place that every row is after, and how to delete a batch.

    Each batch begins after the one before it, so that no pass meets again what it deleted and nobody vacuumed yet.
    """

    what: str
    first: Any
    prune: Prune


class Pruner:
    """Prunes several kinds of rows. `before` is done once at the beginning of each pass, in its own transaction."""

    def __init__(
        self, pool: Pool, prunings: Sequence[Pruning], before: Callable[[Connection], Awaitable[None]] | None = None
    ) -> None:
        self._pool = pool
        self._prunings = prunings
        self._before = before
        self._host_clock = HostClock()

    async def run(self) -> None:
        """Prune, for ever."""
        supervisor = LoopSupervisor("pruner", "pruning failed")
        while True:
            with supervisor:
                await self.prune_all()
            await asyncio.sleep(supervisor.pause(PASS_SECONDS))

    async def prune_all(self) -> None:
        """Delete all that is due now. Raises Unavailable, also while the clocks disagree: what is forgotten stays so,
        and should the database's clock be the one that is wrong, too much would be due."""
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
