"""Kafka's clients, and every touch of aiokafka's private parts, each with its reason.

They were tested with aiokafka 0.14.0, the version that every requirements.lock pins. Before another version, run
tests/unit/shared/test_kafka.py and the relay's integration tests against a real broker.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import aiokafka.client
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn
from aiokafka.errors import ProducerClosed
from aiokafka.producer import sender
from aiokafka.protocol.metadata import MetadataRequest

CANCEL_SECONDS = 0.25  # for the producer's task that sends, to end
# Between two transactions. The library has no setting for it and waits 20 ms, which is most of the time that an event
# takes: the broker writes a transaction's markers in 1 to 5 ms.
BETWEEN_TRANSACTIONS_SECONDS = 0.002

# The connections of a client that starts. A client asks for metadata in a task of its own, which keeps the context that
# it was started in; so `None` there also marks clients that are not of the classes below.
_opened: ContextVar[WeakSet[AIOKafkaConnection] | None] = ContextVar("opened", default=None)


class _Client:
    """Starts a client that creates no topics, and leaves no connection open if a start or a stop is cut off."""

    async def start(self) -> None:
        """Connect to the cluster."""
        with _starting():
            await super().start()  # type: ignore[misc] # the library's class comes after this one


class _StoppedClient(_Client):
    """A client of those that the library ends by `stop`."""

    async def stop(self) -> None:
        """Disconnect from the cluster."""
        with _disconnecting(self):
            await super().stop()  # type: ignore[misc] # as above


class KafkaProducer(_StoppedClient, AIOKafkaProducer):  # type: ignore[misc] # the library publishes no types
    """A producer whose topics have to exist."""

    @property
    def last_answer(self) -> Exception | None:
        """Return the error that the broker answered last and that the library retries; None if there was none."""
        answer: Exception | None = self._sender.last_answer  # _NotingHandler's
        return answer

    def forget_answer(self) -> None:
        """Forget the error that the broker answered last."""
        self._sender.last_answer = None

    async def abandon(self) -> None:
        """Stop sending and fail what is not sent, within seconds; `stop` then has nothing to deliver first."""
        task = self._sender.sender_task
        if task is not None:
            for _ in range(2):  # the first cancellation only makes it wait for its requests
                task.cancel()
                await asyncio.wait([task], timeout=CANCEL_SECONDS)
        unsent = self._message_accumulator
        queued = [batch for queue in unsent._batches.values() for batch in queue]  # noqa: SLF001
        # A batch that waits for its next try is removed from these when it fails, but was removed already.
        unsent._pending_batches.update(queued)  # noqa: SLF001
        batches = [*unsent._pending_batches]  # noqa: SLF001
        unsent.fail_all(ProducerClosed())
        for batch in batches:
            _retrieve(batch.future)
            _retrieve(batch._drain_waiter)  # noqa: SLF001
        if self._txn_manager is not None:
            _retrieve(self._txn_manager.wait_for_transaction_end())  # it fails if the producer was fenced


class KafkaConsumer(_StoppedClient, AIOKafkaConsumer):  # type: ignore[misc] # as above
    """A consumer that waits for topics that do not exist."""


class KafkaAdmin(_Client, AIOKafkaAdminClient):  # type: ignore[misc] # as above
    """An admin client that creates topics by `create_topics` only."""

    async def close(self) -> None:
        """Disconnect from the cluster."""
        with _disconnecting(self):
            await super().close()

    async def _get_cluster_metadata(self, topics: list[str] | None = None) -> Any:
        return await self._send_request(MetadataRequest(topics, allow_auto_topic_creation=False))

    async def create_by_asking(self, topics: list[str]) -> list[dict[str, Any]]:
        """Return the topics' descriptions from a broker that creates what it is asked for and takes no other request.

        That is the embedded broker of the local run.
        """
        metadata = await self._send_request(MetadataRequest(topics, allow_auto_topic_creation=True))
        described: list[dict[str, Any]] = metadata.to_object()["topics"]
        return described


@contextmanager
def _starting() -> Iterator[None]:
    """Note the connections that a start opens, and close them if it fails or is cancelled.

    The library forgets its first connection when a start is cancelled during its wait for the cluster's metadata
    (AIOKafkaClient.bootstrap).
    """
    opened: WeakSet[AIOKafkaConnection] = WeakSet()
    token = _opened.set(opened)
    try:
        yield
    except BaseException:
        for connection in list(opened):
            connection.close(reason=CloseReason.SHUTDOWN)
        raise
    finally:
        _opened.reset(token)


@contextmanager
def _disconnecting(client: Any) -> Iterator[None]:
    """Close all connections of a client in the end.

    The library closes them last. So it leaves them open if it is cancelled before, because the broker hangs.
    """
    try:
        yield
    finally:
        own = client.client if isinstance(client, AIOKafkaProducer) else client._client  # noqa: SLF001
        if own._sync_task is not None:  # noqa: SLF001 - it would connect again
            own._sync_task.cancel()  # noqa: SLF001
        for connection in list(own._conns.values()):  # noqa: SLF001
            connection.close(reason=CloseReason.SHUTDOWN)


async def _noted(*arguments: Any, **options: Any) -> AIOKafkaConnection:
    connection = await create_conn(*arguments, **options)
    opened = _opened.get()
    if opened is not None:
        opened.add(connection)
    return connection


def _metadata_request(topics: list[str] | None = None) -> MetadataRequest:
    """Ask for topics without creating them.

    The library asks in a way that makes a broker with `auto.create.topics.enable` create a missing topic, with that
    broker's defaults: one partition and `cleanup.policy=delete`. It has no setting against that.
    """
    return MetadataRequest(topics, allow_auto_topic_creation=_opened.get() is None)


class _NotingHandler(sender.SendProduceReqHandler):  # type: ignore[misc] # as above
    """Keep the broker's last answer, because the library retries without a word and without end."""

    def _can_retry(self, error: Exception, batch: Any) -> bool:
        self._sender.last_answer = error
        return bool(super()._can_retry(error, batch))


def _retrieve(future: asyncio.Future[None] | None) -> None:
    """Retrieve a failure, because asyncio reports failures that are never retrieved."""
    if future is not None and future.done() and not future.cancelled():
        future.exception()


sender.BACKOFF_OVERRIDE = BETWEEN_TRANSACTIONS_SECONDS
aiokafka.client.create_conn = _noted
aiokafka.client.MetadataRequest = _metadata_request
sender.SendProduceReqHandler = _NotingHandler
