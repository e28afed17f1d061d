"""Waiting for a condition: polls until it holds or its deadline passes, so that no test sleeps and hopes."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")

POLL_SECONDS = 0.02  # short beside what is waited for (a start, a take-over), long beside the price of asking


class DeadlineError(AssertionError):
    """What was waited for did not come in time."""


def wait_until(ask: Callable[[], Answer], seconds: float, what: str) -> Answer:
    """Ask until the answer is true, and return it; DeadlineError names `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise DeadlineError(f"{what}: not within {seconds} s, last answer {answer!r}")
        time.sleep(POLL_SECONDS)
    return answer


async def eventually(ask: Callable[[], Awaitable[Answer]], seconds: float, what: str) -> Answer:
    """`wait_until` for a coroutine function; the event loop runs on meanwhile."""
    deadline = time.monotonic() + seconds
    while not (answer := await ask()):
        if time.monotonic() > deadline:
            raise DeadlineError(f"{what}: not within {seconds} s, last answer {answer!r}")
        await asyncio.sleep(POLL_SECONDS)
    return answer


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
