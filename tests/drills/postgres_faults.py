"""Faults of Postgres, which all services share."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from tests.drills.drill import Drill, now
from tests.drills.platform import Platform
from tests.infrastructure.postgres import paused
from tests.infrastructure.waiting import eventually

NOTICED_SECONDS = 20


async def restarted(platform: Platform) -> float:
    """Stop the server as an operator does, which ends all sessions, and start it again."""
    return await _down(platform, "fast")


async def crashed(platform: Platform) -> float:
    """Stop the server without a checkpoint, and let it recover."""
    return await _down(platform, "immediate")


async def _down(platform: Platform, mode: str) -> float:
    await asyncio.to_thread(platform.postgres.stop, mode)
    platform.postgres.start()
    await asyncio.to_thread(platform.postgres.wait)
    return now()


async def hung(platform: Platform) -> float:
    """Pause all its processes, so that it neither answers nor closes a connection."""
    with paused(platform.postgres.url):
        await asyncio.sleep(platform.pace.fault_seconds)
    return now()


async def exhausted(platform: Platform) -> float:
    """Take all connections, and end those of the services, so that they get none."""
    with ExitStack() as taken:

        def take() -> None:
            """Take what is free, also what the services give back."""
            while True:
                try:
                    taken.enter_context(psycopg.connect(platform.postgres.url, autocommit=True))
                except psycopg.OperationalError:
                    return

        first = taken.enter_context(psycopg.connect(platform.postgres.url, autocommit=True))
        await asyncio.to_thread(take)
        ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '%\\_a'"

        async def refused() -> bool:
            """Until customers notice."""
            await asyncio.to_thread(first.execute, ours)
            await asyncio.to_thread(take)
            return bool(platform.load.failed)

        await eventually(refused, NOTICED_SECONDS, "a request that fails for want of connections")
        await asyncio.sleep(platform.pace.fault_seconds)
    return now()


async def read_only(platform: Platform) -> float:
    """Let the server take no writes, as after a failover to a standby."""
    with setting(platform.postgres.url, "default_transaction_read_only = on"):
        await asyncio.sleep(platform.pace.fault_seconds)
    return now()


@contextmanager
def setting(url: str, value: str) -> Iterator[None]:
    """Change a setting of the server, and reset it at the end."""
    with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
        connection.execute(f"ALTER SYSTEM SET {value}")
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            connection.execute(f"ALTER SYSTEM RESET {value.split(maxsplit=1)[0]}")
            connection.execute("SELECT pg_reload_conf()")


async def full(platform: Platform) -> float:
    """Fill the disk of its data until customers notice; then give the space back."""
    disk = platform.disk("postgres")
    disk.fill()
    try:
        await _noticed(platform)
        await asyncio.sleep(platform.pace.fault_seconds)
    finally:
        disk.free()
    # Without space for its log, the server may have ended itself.
    if not platform.postgres.runs:
        platform.postgres.start()
    await asyncio.to_thread(platform.postgres.wait)
    return now()


async def _noticed(platform: Platform) -> None:
    async def noticed() -> bool:
        return bool(platform.load.failed)

    await eventually(noticed, NOTICED_SECONDS, "a request that fails")


DRILLS = [
    Drill("postgres-restart", "Postgres is stopped (fast) and started again", restarted),
    Drill("postgres-crash", "Postgres is stopped without a checkpoint, and recovers", crashed, in_short=True),
    Drill("postgres-hang", "SIGSTOP of all processes of Postgres, then SIGCONT", hung, in_short=True),
    Drill("postgres-connections", "somebody else takes all connections of Postgres", exhausted),
    Drill("postgres-read-only", "Postgres takes no writes", read_only),
    Drill("postgres-full", "the disk of Postgres is full", full),
]
