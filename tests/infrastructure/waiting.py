"""Waits for a condition: polls until it is true or the deadline passes, so that no test sleeps."""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")

POLL_SECONDS = 0.02  # short compared with a start or a take-over, long compared with the cost of a poll
# A poll may cost the machine, and so what is waited for, several milliseconds. So a longer wait polls less often.
SLOWEST_SECONDS = 0.1
SHARE = 0.1  # of the time that has been waited
PORTS = range(20_000, 32_768)  # none begins with the 1 of 127.0.0.1:1, where tests expect nobody


class DeadlineError(AssertionError):
    """The condition did not become true in time."""


def wait_until(ask: Callable[[], Answer], seconds: float, what: str) -> Answer:
    """Call `ask` until its answer is true, and return it. Raises DeadlineError, with `what`, after `seconds`."""
    began = time.monotonic()
    while not (answer := ask()):
        waited = time.monotonic() - began
        if waited > seconds:
            raise DeadlineError(f"{what}: not within {seconds} s, last answer {answer!r}")
        time.sleep(_pause(waited))
    return answer


async def eventually(ask: Callable[[], Awaitable[Answer]], seconds: float, what: str) -> Answer:
    """Do the same as `wait_until` for a coroutine function, without blocking the event loop."""
    began = time.monotonic()
    while not (answer := await ask()):
        waited = time.monotonic() - began
        if waited > seconds:
            raise DeadlineError(f"{what}: not within {seconds} s, last answer {answer!r}")
        await asyncio.sleep(_pause(waited))
    return answer


def _pause(waited: float) -> float:
    """Return the seconds to the next poll."""
    return max(POLL_SECONDS, min(SLOWEST_SECONDS, SHARE * waited))


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens at present."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return different ports like that.

    They are below those that the system gives to outgoing connections: such a connection could take a port before the
    server does that it was meant for.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            port = PORTS[secrets.randbelow(len(PORTS))]
            with contextlib.suppress(OSError):  # it is in use
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def listens(host: str, port: int) -> bool:
    """Return whether a server accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
