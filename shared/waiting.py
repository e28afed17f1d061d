"""Waiting for an event for so long and no longer."""

import asyncio


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
