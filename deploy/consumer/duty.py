"""What one process at a time does, again and again; a lease only, as doing it twice at once does no harm."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from deploy.consumer import store
from shared.background import LoopSupervisor
from shared.concurrency import wait_for
from shared.postgres import Pool
from shared.refusals import Unavailable

LEASE_SECONDS = 30.0  # longer than a pass takes unless much is missing


async def repeat(
    name: str,
    replica: str,
    pool: Pool,
    interval_seconds: float,
    stop: asyncio.Event,
    work: Callable[[], Awaitable[None]],
) -> None:
    """Do `work` at each interval for as long as this process has the duty, until `stop` is set."""
    supervisor = LoopSupervisor(name, "duty interrupted")
    try:
        while not stop.is_set():
            with supervisor:
                async with pool.connection() as db:
                    ours = await store.hold_duty(db, name, replica, LEASE_SECONDS)
                if ours:
                    await work()
            await wait_for(stop, supervisor.pause(interval_seconds))
    finally:
        with suppress(Unavailable):
            async with pool.connection() as db:
                await store.leave_duty(db, name, replica)
