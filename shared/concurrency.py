"""Wait for an event with a time limit, and run work to completion despite cancellation."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait until `event` is set, for at most `seconds`; return whether it is set.

    asyncio.wait_for is not used: before Python 3.12 it swallows a cancellation that comes together with the event, and
    the loop around it never ends.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def run_to_completion(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to completion even if the caller is cancelled, then re-raise the cancellation.

    asyncio.shield alone is not enough: nothing waits for the work then, and the end of the event loop cancels it.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
