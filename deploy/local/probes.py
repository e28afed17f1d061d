"""Asks whether a process of the local run is ready."""

import aiohttp

PROBE = aiohttp.ClientTimeout(total=2)


async def is_ready(url: str) -> bool:
    """Return whether the service reports that it is ready."""
    try:
        async with aiohttp.ClientSession(timeout=PROBE) as session, session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def true() -> bool:
    """Return ready immediately: for processes that are ready once they have started."""
    return True
