"""Limits the time of calls to Kafka's clients, and stops the clients."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from services.relay.kafka.errors import describe
from shared.process.tasks import run_to_completion

STOP_SECONDS = 1.0


class Stoppable(Protocol):
    """A producer or a consumer."""

    async def stop(self) -> None:
        """Close its connections."""


class BrokerFailed(Exception):  # noqa: N818 - expected, and tried again
    """Kafka did not do what it was asked, or did not say whether it did."""


@asynccontextmanager
async def bounded(seconds: float) -> AsyncIterator[None]:
    """Limit the time of the body's calls, because the client retries for ever, and turn failures into BrokerFailed.

    All failures: while brokers start and stop the client also raises AssertionError and AttributeError, and each of
    its errors only means that the outcome is unknown.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except BrokerFailed:
        raise
    except TimeoutError as error:
        raise BrokerFailed(f"{describe(error)}: no outcome within {seconds:g} s") from error
    except Exception as error:
        raise BrokerFailed(describe(error)) from error


async def stopped(*clients: Stoppable) -> None:
    """Stop clients within STOP_SECONDS, even if the caller is cancelled or the broker hangs."""
    await run_to_completion(_stop(clients))


async def _stop(clients: Sequence[Stoppable]) -> None:
    with suppress(BrokerFailed):
        async with bounded(STOP_SECONDS):
            await asyncio.gather(*(client.stop() for client in clients), return_exceptions=True)
