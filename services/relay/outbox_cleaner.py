"""Keeps the outbox small: rotates its partitions, and drops those whose events were published long ago."""

import asyncio
from functools import partial

import asyncpg
import structlog

from services.relay import metrics, store
from services.relay.settings import RelaySettings
from shared.leadership import Leadership
from shared.postgres.clocks import HostClock
from shared.postgres.connections import Connection, Pool
from shared.process.tasks import LoopSupervisor

log = structlog.get_logger()

LEADERSHIP = "clean the outbox"
# How many partitions the retention is divided into. With more, events are removed closer to their time, but a query for
# an order's events has to search each partition.
PARTITIONS = 12
ROTATION_SECONDS_MIN = 300.0  # below that, retention is short and so are the partitions
INTERVAL_SECONDS = 30.0  # against rotations of minutes or hours; a pass with nothing to do takes a few milliseconds
LEASE_SECONDS = 3 * INTERVAL_SECONDS
STEPS_MAX = 3  # attach, ready, rotate; the next pass does the rest


class OutboxCleaner:
    """Cleans the outbox while this replica is the leader."""

    def __init__(self, settings: RelaySettings, pool: Pool) -> None:
        self._leadership = Leadership(partial(store.hold_leadership, leadership=LEADERSHIP, holder=settings.replica))
        self._pool = pool
        self._host_clock = HostClock()
        self._retention_seconds = settings.retention_hours * 3600
        self._rotation_seconds = max(ROTATION_SECONDS_MIN, self._retention_seconds / PARTITIONS)

    async def run(self) -> None:
        """Clean every INTERVAL_SECONDS, for ever."""
        supervisor = LoopSupervisor("cleaner", "outbox.cleaning_failed")
        metrics.LAST_CLEANING.set_to_current_time()  # its alert must not count from 1970
        while True:
            with supervisor:
                async with self._pool.connection() as connection:
                    if await self._leadership.renew(connection, LEASE_SECONDS):
                        await self._host_clock.compare_and_check(connection)
                        await clean(connection, self._rotation_seconds, self._retention_seconds)
                    else:
                        metrics.PARTITIONS_KEPT.set(0)  # its alert must end with the leadership
            await asyncio.sleep(supervisor.pause(INTERVAL_SECONDS))


async def clean(connection: Connection, rotation_seconds: float, retention_seconds: float) -> None:
    """Rotate if it is due, and drop partitions that were published longer ago than the retention.

    `connection` must not be in a transaction. Raises Unavailable.
    """
    for _ in range(STEPS_MAX):
        step = await store.rotate_outbox(connection, rotation_seconds)
        if step is None:
            break
        log.info("outbox.rotated", step=step)
    await store.note_published(connection)
    try:
        while (partition := await store.drop_published(connection, retention_seconds)) is not None:
            metrics.PARTITIONS_DROPPED.inc()
            log.info("outbox.partition_dropped", partition=partition)
    except asyncpg.LockNotAvailableError:
        metrics.DROPS_PUT_OFF.inc()
        log.info("outbox.drop_postponed")
    partitions = await store.outbox_partitions(connection, rotation_seconds + retention_seconds)
    metrics.PARTITIONS.set(partitions["attached"])
    metrics.OLDEST_PARTITION.set(partitions["oldest_seconds"])
    metrics.LAST_CLEANING.set_to_current_time()
    metrics.PARTITIONS_KEPT.set(partitions["kept"])
    if partitions["kept"]:
        log.warning("outbox.partitions_kept", partitions=partitions["kept"], reason="they hold unpublished events")
