"""Brings batches to the topic, of one shard or several at once: a Kafka transaction for all that go together."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import ProducerClosed
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import MessageAccumulator

from services.relay import metrics
from services.relay.broker_errors import REFUSALS, TOO_LARGE, describe
from services.relay.clients import BrokerFailed, bounded, started, stopped
from services.relay.records import Header, OutboxEvent, headers, partitions
from services.relay.settings import RelaySettings
from services.relay.topics import TopicView
from shared.concurrency import run_to_completion
from shared.kafka import KafkaProducer

# Below the broker's default of 1 MiB a record batch, with the largest event the outbox takes still fitting.
CHUNK_BYTES = 900_000
# A batch of 4 MiB takes as many round trips as it has record batches for a partition: with these it ends in time.
CHUNK_BYTES_MIN = 16_384
CANCEL_SECONDS = 0.25  # for its task that sends, to end
# Between a take-over's tries to open the producer, while the broker settles the transaction of the one before.
RETRY_BACKOFF_MILLISECONDS = 20
# The same between two transactions. The client has no setting for it and waits 20 ms, which is most of what an event
# takes: the broker writes a transaction's markers in 1 to 5 ms.
BETWEEN_TRANSACTIONS_SECONDS = 0.002
sender.BACKOFF_OVERRIDE = BETWEEN_TRANSACTIONS_SECONDS


class NotingHandler(sender.SendProduceReqHandler):  # type: ignore[misc] # the library publishes no types
    """Notes what a broker answers while the client tries again without a word and without end."""

    def _can_retry(self, error: Exception, batch: Any) -> bool:
        self._sender.last_answer = error
        return bool(super()._can_retry(error, batch))


sender.SendProduceReqHandler = NotingHandler


class EventsRefused(Exception):  # noqa: N818 - expected: parks an order
    """The broker refuses some events for their own sake."""

    def __init__(self, refused: "Sequence[Chunk]", error: Exception) -> None:
        super().__init__(describe(error))
        self.refused = refused
        self._too_large = isinstance(error, TOO_LARGE)

    @property
    def too_large_together(self) -> bool:
        """Say whether smaller record batches may get through: one of a single event is not too large as a whole."""
        return self._too_large and any(len(chunk.events) > 1 for chunk in self.refused)


@dataclass(slots=True)
class Chunk:
    """Events that go to one partition in one record batch."""

    builder: Any
    events: list[OutboxEvent] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one shard brings out at once, and the number that it has there."""

    shard: int
    number: int
    events: Sequence[OutboxEvent]


class Publisher:
    """A producer for as long as nothing goes wrong with it; then drop it and open the next.

    With a transactional id it brings out everything in Kafka transactions, and opening it fences whoever had that id
    before, in this process or another. Without one it sends at least once.
    """

    def __init__(
        self,
        settings: RelaySettings,
        transactional_id: str | None,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        further_headers: Sequence[Header] = (),
        view: TopicView | None = None,
    ) -> None:
        """`view` is what all producers of the process share; without it this one goes by what its cluster tells."""
        self._view = view or TopicView()
        self._settings = settings
        self._further_headers = further_headers
        self._transactional = transactional_id is not None
        self._partitions = 0
        milliseconds = int(settings.kafka_timeout_seconds * 1000)
        transaction = {"transactional_id": transactional_id, "transaction_timeout_ms": milliseconds}
        self._producer = KafkaProducer(
            **settings.kafka_options(),
            client_id=settings.replica,
            enable_idempotence=True,
            request_timeout_ms=milliseconds,
            retry_backoff_ms=RETRY_BACKOFF_MILLISECONDS,
            max_batch_size=chunk_bytes,
            **(transaction if self._transactional else {}),
        )

    async def open(self) -> None:
        """Connect; with a transactional id also settle what it had open, and fence it. Raises BrokerFailed."""
        async with bounded(self._settings.kafka_timeout_seconds):
            await started(self._producer)
            self._partitions = len(await self._producer.partitions_for(self._settings.topic))

    async def publish(self, *batches: Batch, one_by_one: bool = False) -> None:
        """Bring batches of different shards out and, with transactions, all their numbers in one with them.

        `one_by_one` gives each event a record batch of its own, so that a refusal names it.
        Raises EventsRefused or BrokerFailed; after either this producer must be dropped, and whether the batches are
        out is unknown: with transactions all of them, or none.
        """
        await self._keep_up()
        by_partition = self._chunks([event for batch in batches for event in batch.events], one_by_one=one_by_one)
        started = time.perf_counter()
        async with self._answered():
            if self._transactional:
                await self._producer.begin_transaction()
            sends = [self._send(index, chunks) for index, chunks in enumerate(by_partition) if chunks]
            if self._transactional:
                sends.extend(map(self._send_position, batches))
            # All of them: the client commits a transaction although one of its sends has failed.
            results = await asyncio.gather(*sends, return_exceptions=True)
        _check(results)
        if self._transactional:
            async with bounded(self._settings.kafka_timeout_seconds):
                await self._producer.commit_transaction()
        metrics.TRANSACTION_SECONDS.observe(time.perf_counter() - started)

    @asynccontextmanager
    async def _answered(self) -> AsyncIterator[None]:
        """Bound what is sent; if it doesn't end, say what the broker answered to it meanwhile."""
        sender_ = self._producer._sender  # noqa: SLF001 - there is no public way to learn of it
        sender_.last_answer = None
        try:
            async with bounded(self._settings.kafka_timeout_seconds):
                yield
        except BrokerFailed as failed:
            if sender_.last_answer is None:
                raise
            raise BrokerFailed(f"{failed}; the broker answers {describe(sender_.last_answer)}") from failed

    async def _keep_up(self) -> None:
        """Learn of partitions that were added. Raises BrokerFailed if this producer's cluster doesn't tell of them."""
        if self._view.partitions <= self._partitions:
            return
        async with bounded(self._settings.kafka_timeout_seconds):
            await self._producer.client.force_metadata_update()
            self._partitions = len(await self._producer.partitions_for(self._settings.topic))
        if self._view.partitions > self._partitions:
            raise BrokerFailed(f"{self._settings.topic} has {self._partitions} partitions, not {self._view.partitions}")

    def _chunks(self, events: Sequence[OutboxEvent], *, one_by_one: bool) -> list[list[Chunk]]:
        """Return the record batches by partition. Only the order within a partition counts."""
        # One number for all producers of the process: two would send an order's events back and forth.
        count = self._view.partitions or self._partitions
        by_partition: list[list[Chunk]] = [[] for _ in range(count)]
        # Kafka keeps records by their timestamp: with the event's own, a late one could be removed at once.
        now = self._view.milliseconds()
        keys = [event.order_id.encode() for event in events]
        for event, key, index in zip(events, keys, partitions(keys, count), strict=True):
            chunks, value, attributes = by_partition[index], event.payload, [*headers(event), *self._further_headers]
            if (
                one_by_one
                or not chunks
                or chunks[-1].builder.append(timestamp=now, key=key, value=value, headers=attributes) is None
            ):
                chunks.append(Chunk(self._producer.create_batch()))
                # A first record is taken whatever its size.
                chunks[-1].builder.append(timestamp=now, key=key, value=value, headers=attributes)
            chunks[-1].events.append(event)
        return by_partition

    async def _send(self, index: int, chunks: Sequence[Chunk]) -> EventsRefused | None:
        for chunk in chunks:
            try:
                # One after the other: a broker may take the one after a refused one.
                await (await self._producer.send_batch(chunk.builder, self._settings.topic, partition=index))
            except REFUSALS as error:
                return EventsRefused([chunk], error)
        return None

    async def _send_position(self, batch: Batch) -> None:
        await self._producer.send_and_wait(
            self._settings.position_topic,
            key=self._settings.shard_name(batch.shard).encode(),
            value=str(batch.number).encode(),
            partition=batch.shard,
            timestamp_ms=self._view.milliseconds(),
        )

    async def drop(self) -> None:
        """Close the producer within seconds and send nothing more, whatever state it is in, also for who is cancelled.

        Its own stop() would first go on trying to deliver what is left, without end.
        """
        await run_to_completion(self._end())

    async def _end(self) -> None:
        task = self._producer._sender.sender_task  # noqa: SLF001 - there is no public way to stop it
        if task is not None:
            for _ in range(2):  # the first one only makes it wait for its requests
                task.cancel()
                await asyncio.wait([task], timeout=CANCEL_SECONDS)
        _give_up(self._producer._message_accumulator)  # noqa: SLF001 - stop() would wait for it
        if self._transactional:
            _look_at(self._producer._txn_manager.wait_for_transaction_end())  # noqa: SLF001 - fails where it was fenced
        await stopped(self._producer)


@asynccontextmanager
async def opened(
    settings: RelaySettings,
    transactional_id: str | None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    view: TopicView | None = None,
) -> AsyncIterator[Publisher]:
    """Open a publisher for the body, and drop it whatever becomes of either. Raises BrokerFailed."""
    publisher = Publisher(settings, transactional_id, chunk_bytes=chunk_bytes, view=view)
    try:
        await publisher.open()
        yield publisher
    finally:
        await publisher.drop()


def smaller(chunk_bytes: int) -> int:
    """Return the next size to try where record batches are too large for the topic only as a whole."""
    return max(CHUNK_BYTES_MIN, chunk_bytes // 2)


def _give_up(accumulator: MessageAccumulator) -> None:
    """Fail what has not been sent, and look at each failure: nobody else will, and asyncio reports what nobody saw."""
    queued = [batch for queue in accumulator._batches.values() for batch in queue]  # noqa: SLF001 - as above
    # A batch that waits for its next try is taken out of these when it fails, but was taken out already.
    accumulator._pending_batches.update(queued)  # noqa: SLF001
    batches = [*accumulator._pending_batches]  # noqa: SLF001
    accumulator.fail_all(ProducerClosed())
    for batch in batches:
        _look_at(batch.future)
        _look_at(batch._drain_waiter)  # noqa: SLF001


def _look_at(future: asyncio.Future[None] | None) -> None:
    if future is not None and future.done() and not future.cancelled():
        future.exception()


def _check(results: Sequence[EventsRefused | BaseException | None]) -> None:
    refusals = [result for result in results if isinstance(result, EventsRefused)]
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, EventsRefused):
            raise BrokerFailed(describe(result)) from result
    if refusals:
        first = refusals[0]
        first.refused = [chunk for refusal in refusals for chunk in refusal.refused]
        raise first
