"""Starting and stopping Kafka's clients so that none leaves a connection open, whatever becomes of the broker."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakSet

import aiokafka.client
from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn

from services.relay.broker_errors import describe
from shared.concurrency import run_to_completion

STOP_SECONDS = 1.0


class BrokerFailed(Exception):  # noqa: N818 - expected, and tried again
    """Kafka did not do what it was asked, or did not say whether it did."""


class Startable(Protocol):
    """A producer, a consumer or an admin client."""

    async def start(self) -> None:
        """Connect to the cluster."""


class Stoppable(Protocol):
    """A producer or a consumer."""

    async def stop(self) -> None:
        """Close its connections."""


@asynccontextmanager
async def bounded(seconds: float) -> AsyncIterator[None]:
    """Give the calls of the body a time limit, since the client tries for ever, and turn failures into BrokerFailed.

    All failures: while brokers come and go the client also raises AssertionError and AttributeError, and no error of
    it tells more than that the outcome is unknown.
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


async def started(client: Startable) -> None:
    """Start a client. A start that is cut off closes what it has opened.

    The library's own forgets its first connection when it is cancelled while it waits for the cluster's description
    (AIOKafkaClient.bootstrap), and nobody else knows of it.
    """
    opened: WeakSet[AIOKafkaConnection] = WeakSet()
    token = _opened.set(opened)
    try:
        await client.start()
    except BaseException:
        for connection in list(opened):
            connection.close(reason=CloseReason.SHUTDOWN)
        raise
    finally:
        _opened.reset(token)


async def stopped(*clients: Stoppable) -> None:
    """Stop clients within STOP_SECONDS, also for who is cancelled meanwhile.

    What a broker that hangs keeps them from closing closes with the broker or with the process.
    """
    await run_to_completion(_stop(clients))


async def _stop(clients: Sequence[Stoppable]) -> None:
    with suppress(BrokerFailed):
        async with bounded(STOP_SECONDS):
            await asyncio.gather(*(client.stop() for client in clients), return_exceptions=True)


_opened: ContextVar[WeakSet[AIOKafkaConnection] | None] = ContextVar("opened", default=None)


async def _noted(*arguments: Any, **options: Any) -> AIOKafkaConnection:
    connection = await create_conn(*arguments, **options)
    opened = _opened.get()
    if opened is not None:
        opened.add(connection)
    return connection


aiokafka.client.create_conn = _noted
