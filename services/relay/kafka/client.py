"""Starts and stops Kafka's clients without leaving connections open, and uses aiokafka's private parts where it must.

This is the only module of the relay that touches aiokafka's private parts, each with its reason. They were tested with
aiokafka 0.14.0, the version that requirements.lock pins: before another version, run the tests against a real broker.
shared/kafka.py has the one other touch: no client of ours creates a topic by asking for it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakSet

import aiokafka.client
from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn
from aiokafka.errors import ProducerClosed
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import MessageAccumulator

from services.relay.kafka.errors import describe
from shared.concurrency import run_to_completion
from shared.kafka import KafkaProducer

STOP_SECONDS = 1.0
CANCEL_SECONDS = 0.25  # for the producer's task that sends, to end
# Between two transactions. The client has no setting for it and waits 20 ms, which is most of the time that an event
# takes: the broker writes a transaction's markers in 1 to 5 ms.
BETWEEN_TRANSACTIONS_SECONDS = 0.002
sender.BACKOFF_OVERRIDE = BETWEEN_TRANSACTIONS_SECONDS


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


async def started(client: Startable) -> None:
    """Start a client; if the start fails or is cancelled, close the connections that it opened.

    The library's own start forgets its first connection when it is cancelled while it waits for the cluster's metadata
    (AIOKafkaClient.bootstrap).
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
    """Stop clients within STOP_SECONDS, even if the caller is cancelled.

    If a broker hangs, connections that can't be closed end with the broker or with the process.
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


class _NotingHandler(sender.SendProduceReqHandler):  # type: ignore[misc] # the library publishes no types
    """Keep the broker's last answer, because the client retries without a word and without end."""

    def _can_retry(self, error: Exception, batch: Any) -> bool:
        self._sender.last_answer = error
        return bool(super()._can_retry(error, batch))


sender.SendProduceReqHandler = _NotingHandler


def forget_answer(producer: KafkaProducer) -> None:
    """Forget the error that the broker answered last."""
    producer._sender.last_answer = None  # noqa: SLF001 - _NotingHandler's


def last_answer(producer: KafkaProducer) -> Exception | None:
    """Return the error that the broker answered last and that the client retries; None if there was none."""
    answer: Exception | None = producer._sender.last_answer  # noqa: SLF001 - _NotingHandler's
    return answer


async def discard(producer: KafkaProducer, *, transactional: bool) -> None:
    """Close a producer within seconds and send nothing more; its own stop() first tries to deliver what is left."""
    task = producer._sender.sender_task  # noqa: SLF001 - there is no public way to stop it
    if task is not None:
        for _ in range(2):  # the first cancellation only makes it wait for its requests
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_SECONDS)
    _fail_unsent(producer._message_accumulator)  # noqa: SLF001 - stop() would wait for it
    if transactional:
        # It fails if the producer was fenced.
        _retrieve(producer._txn_manager.wait_for_transaction_end())  # noqa: SLF001 - nothing public tells
    await stopped(producer)


def _fail_unsent(accumulator: MessageAccumulator) -> None:
    """Fail what has not been sent and retrieve each failure, because asyncio reports failures that nobody retrieves."""
    queued = [batch for queue in accumulator._batches.values() for batch in queue]  # noqa: SLF001 - as above
    # A batch that waits for its next try is removed from these when it fails, but was removed already.
    accumulator._pending_batches.update(queued)  # noqa: SLF001
    batches = [*accumulator._pending_batches]  # noqa: SLF001
    accumulator.fail_all(ProducerClosed())
    for batch in batches:
        _retrieve(batch.future)
        _retrieve(batch._drain_waiter)  # noqa: SLF001


def _retrieve(future: asyncio.Future[None] | None) -> None:
    if future is not None and future.done() and not future.cancelled():
        future.exception()
