"""A pass of the pruner continues after the last deleted row, and rests after each full batch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shared.pruning import BATCH_MAX, REST, Pruner, Pruning

BATCH_SECONDS = 0.02


class Pool:
    """Stands in for one to Postgres: the connection is not used."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield


async def test_pruner_continues_after_the_last_key_and_rests_in_between() -> None:
    loop = asyncio.get_running_loop()
    pool: Any = Pool()
    asked: list[tuple[int, int]] = []
    times: list[float] = []

    async def prune(_: object, after: int, limit: int) -> list[int]:
        times.append(loop.time())
        asked.append((after, limit))
        assert len(asked) <= 3, "a batch is repeated"
        await asyncio.sleep(BATCH_SECONDS)
        times.append(loop.time())
        return list(range(after + 1, 1201))[:limit]

    await Pruner(pool, [])._prune(Pruning("things", 0, prune))
    assert asked == [(0, BATCH_MAX), (BATCH_MAX, BATCH_MAX), (2 * BATCH_MAX, BATCH_MAX)]
    rests = [begun - ended for ended, begun in zip(times[1::2], times[2::2], strict=False)]
    assert min(rests) > 0.9 * REST * BATCH_SECONDS
