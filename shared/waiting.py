"""Waiting for an event for so long and no longer, and for work until it has ended."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def waited(event: asyncio.Event, seconds: float) -> bool:
    """Wait until `event` is set or `seconds` are over; return whether it is set.

    Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes together with the event, and the loop
    around it then runs for ever.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def ended(work: Coroutine[Any, Any, None]) -> None:
    """Do work to its end, also for who is cancelled meanwhile; then the cancellation goes on.

    asyncio.shield alone lets the work go on with nobody waiting for it, and cuts it off where the loop ends.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
