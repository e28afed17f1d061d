"""Measures what is not published yet, for the metrics."""

import asyncio
import time

from services.relay import metrics, store
from services.relay.adaptive_timeout import AdaptiveTimeout
from shared.background import LoopSupervisor
from shared.postgres import Pool

INTERVAL_SECONDS = 5.0  # well within a usual scrape interval of 15 s
# Of the time, at the most: what was published leaves dead entries, and while any transaction that is older stays open
# nobody can remove them and each look walks over them all.
SHARE_MAX = 0.02
COUNT_MAX = 100_000  # counting more takes the database longer than it is worth


async def measure(pool: Pool) -> None:
    """Set the gauges, for all shards whoever holds them, for ever."""
    timeout = AdaptiveTimeout()
    supervisor = LoopSupervisor("backlog", "backlog not measured")
    while True:
        began = time.monotonic()
        with supervisor:
            async with pool.connection() as connection:
                with timeout.limit() as seconds:
                    found = await store.backlog(connection, COUNT_MAX, timeout_seconds=seconds)
                for waiting in found:
                    metrics.PENDING.labels(waiting.shard).set(waiting.pending)
                    metrics.PARKED.labels(waiting.shard).set(waiting.parked)
                    metrics.OLDEST.labels(waiting.shard).set(waiting.oldest_seconds)
        await asyncio.sleep(supervisor.pause(max(INTERVAL_SECONDS, (time.monotonic() - began) / SHARE_MAX)))
