"""Measures what waits for others, and the database server, so that it is seen also while the relay is down."""

import asyncio
import time

from prometheus_client import Gauge

from services.order.store import SQL
from shared.postgres.connections import Connection, Pool, Row
from shared.process.tasks import LoopSupervisor

# How often it is measured, and the largest share of the time that this may take. Published events and orders that are
# no longer unpaid leave dead index entries. They cannot be removed while an older transaction is open, and each read
# passes them all.
INTERVAL_SECONDS = 5.0
SHARE_MAX = 0.02
# While this process was stopped or the database hung, a query took long, but cost nothing. Its alerts must end soon.
PAUSE_MAX_SECONDS = 60.0
UNPUBLISHED = Gauge("outbox_oldest_unpublished_seconds", "Age of the oldest event that the relay has not published")
OVERDUE = Gauge("orders_overdue_oldest_seconds", "How long the longest unpaid order is past its expiry")
CONNECTIONS = Gauge("postgres_connections", "Connections that the server has, of all clients")
CONNECTIONS_MAX = Gauge("postgres_connections_max", "Connections that the server accepts")
DATABASE_BYTES = Gauge("postgres_database_bytes", "Size of the database")
OUTBOX_BYTES = Gauge("postgres_outbox_bytes", "Size of the outbox with its indexes, a part of the database")
WAL_WRITTEN_BYTES = Gauge("postgres_wal_written_bytes", "WAL that the server has written since its first start")
WAL_KEPT_BYTES = Gauge("postgres_wal_kept_bytes", "WAL that the server keeps for the replication slot furthest behind")


class Backlog:
    """Sets the gauges of this module, in every process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(self) -> None:
        """Measure for ever."""
        supervisor = LoopSupervisor("outbox", "outbox.check_failed")
        while True:
            began = time.monotonic()
            with supervisor:
                await self._measure()
            pause = min(max(INTERVAL_SECONDS, (time.monotonic() - began) / SHARE_MAX), PAUSE_MAX_SECONDS)
            await asyncio.sleep(supervisor.pause(pause))

    async def _measure(self) -> None:
        async with self._pool.connection() as db:
            waiting = await read_backlog(db)
            UNPUBLISHED.set(waiting["unpublished_seconds"])
            OVERDUE.set(waiting["overdue_seconds"])
            server = await read_server(db)
        CONNECTIONS.set(server["connections"])
        CONNECTIONS_MAX.set(server["connections_max"])
        DATABASE_BYTES.set(server["database_bytes"])
        OUTBOX_BYTES.set(server["outbox_bytes"])
        WAL_WRITTEN_BYTES.set(server["wal_written_bytes"])
        WAL_KEPT_BYTES.set(server["wal_kept_bytes"])


async def read_backlog(db: Connection) -> Row:
    """Return the ages of the oldest unpublished event and of the longest overdue order, in seconds; 0 without any."""
    row = await db.fetchrow(SQL["read_backlog"])
    assert row is not None
    return row


async def read_server(db: Connection) -> Row:
    """Return the server's connections and their maximum, and sizes in bytes."""
    row = await db.fetchrow(SQL["read_server"])
    assert row is not None
    return row
