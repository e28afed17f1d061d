"""Publishes batches of one or several shards to the topic, in one Kafka transaction."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.relay import metrics
from services.relay.domain.events import CHUNK_BYTES, Batch, EventsRefused, OutboxEvent
from services.relay.kafka.client import BrokerFailed, bounded, stopped
from services.relay.kafka.errors import REFUSALS, TOO_LARGE, describe
from services.relay.kafka.records import Header, headers, partitions
from services.relay.kafka.spans import SendSpans
from services.relay.kafka.topics import TopicView
from services.relay.settings import RelaySettings
from shared.kafka import KafkaProducer
from shared.process.tasks import run_to_completion

# Between a take-over's tries to open the producer, while the broker ends the previous producer's transaction.
RETRY_BACKOFF_MILLISECONDS = 20


@dataclass(slots=True)
class Chunk:
    """Events for one partition, in one record batch."""

    builder: Any
    events: list[OutboxEvent] = field(default_factory=list)


class EventProducer:
    """A producer, until its first failure; then the caller drops it and opens the next one. `async with` does both.

    With a transactional id it publishes in Kafka transactions, and opening it fences the previous producer with that
    id, in this process or another. Without one it publishes at least once.
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
        """`view` is shared by all producers of the process; without it the producer uses its own cluster's metadata."""
        self._view = view or TopicView()
        self._settings = settings
        self._further_headers = further_headers
        self._transactional = transactional_id is not None
        self._partitions = 0
        milliseconds = int(settings.kafka_timeout_seconds * 1000)
        transaction = {"transactional_id": transactional_id, "transaction_timeout_ms": milliseconds}
        self._producer = KafkaProducer(
            **settings.client_options(),
            enable_idempotence=True,
            retry_backoff_ms=RETRY_BACKOFF_MILLISECONDS,
            max_batch_size=chunk_bytes,
            **(transaction if self._transactional else {}),
        )

    async def __aenter__(self) -> "EventProducer":
        try:
            await self.open()
        except BaseException:
            await self.drop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drop()

    async def open(self) -> None:
        """Connect; with a transactional id also end its open transaction and fence it. Raises BrokerFailed."""
        async with bounded(self._settings.kafka_timeout_seconds):
            await self._producer.start()
            self._partitions = len(await self._producer.partitions_for(self._settings.topic))

    async def publish(self, *batches: Batch, one_by_one: bool = False) -> None:
        """Publish the batches of several shards; in transactional mode, in one Kafka transaction with their numbers.

        `one_by_one` gives each event its own record batch, so that a refusal names it.
        Raises EventsRefused or BrokerFailed. After either this producer must be dropped, and it is unknown whether the
        batches were published: with transactions all of them, or none.
        """
        events = [event for batch in batches for event in batch.events]
        with SendSpans(self._settings.topic, events) as sending:
            await self._publish(batches, events, sending.headers, one_by_one=one_by_one)

    async def _publish(
        self, batches: Sequence[Batch], events: Sequence[OutboxEvent], traced: Mapping[int, Header], *, one_by_one: bool
    ) -> None:
        await self._keep_up()
        by_partition = self._chunks(events, traced, one_by_one=one_by_one)
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
        """Bound the body's time; on a timeout, add the broker's last answer to the error."""
        self._producer.forget_answer()
        try:
            async with bounded(self._settings.kafka_timeout_seconds):
                yield
        except BrokerFailed as failed:
            answer = self._producer.last_answer
            if answer is None:
                raise
            raise BrokerFailed(f"{failed}; the broker answers {describe(answer)}") from failed

    async def _keep_up(self) -> None:
        """Learn of added partitions. Raises BrokerFailed if this producer's cluster does not know them yet."""
        if self._view.partitions <= self._partitions:
            return
        async with bounded(self._settings.kafka_timeout_seconds):
            await self._producer.client.force_metadata_update()
            self._partitions = len(await self._producer.partitions_for(self._settings.topic))
        if self._view.partitions > self._partitions:
            raise BrokerFailed(f"{self._settings.topic} has {self._partitions} partitions, not {self._view.partitions}")

    def _chunks(
        self, events: Sequence[OutboxEvent], traced: Mapping[int, Header], *, one_by_one: bool
    ) -> list[list[Chunk]]:
        """Return the record batches by partition. Only the order within a partition counts.

        `traced`: a further header of the events whose spans are recorded, by outbox id.
        """
        # One number for all producers of the process: with two, an order's events would change partitions repeatedly.
        count = self._view.partitions or self._partitions
        by_partition: list[list[Chunk]] = [[] for _ in range(count)]
        # Kafka keeps records by their timestamp: with the event's own, a late one could be removed immediately.
        now = self._view.milliseconds()
        keys = [event.order_id.encode() for event in events]
        for event, key, index in zip(events, keys, partitions(keys, count), strict=True):
            chunks, value, attributes = by_partition[index], event.payload, [*headers(event), *self._further_headers]
            if event.outbox_id in traced:
                attributes.append(traced[event.outbox_id])
            if (
                one_by_one
                or not chunks
                or chunks[-1].builder.append(timestamp=now, key=key, value=value, headers=attributes) is None
            ):
                chunks.append(Chunk(self._producer.create_batch()))
                # The first record always fits, even if it is larger.
                chunks[-1].builder.append(timestamp=now, key=key, value=value, headers=attributes)
            chunks[-1].events.append(event)
        return by_partition

    async def _send(self, index: int, chunks: Sequence[Chunk]) -> EventsRefused | None:
        for chunk in chunks:
            try:
                # One after the other: otherwise a broker might accept a batch that follows a refused one.
                await (await self._producer.send_batch(chunk.builder, self._settings.topic, partition=index))
            except REFUSALS as error:
                return EventsRefused(describe(error), [chunk.events], too_large=isinstance(error, TOO_LARGE))
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
        """Close the producer within seconds and send nothing more, in any state and even if the caller is cancelled."""
        await run_to_completion(self._drop())

    async def _drop(self) -> None:
        await self._producer.abandon()
        await stopped(self._producer)


def _check(results: Sequence[EventsRefused | BaseException | None]) -> None:
    refusals = [result for result in results if isinstance(result, EventsRefused)]
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, EventsRefused):
            raise BrokerFailed(describe(result)) from result
    if refusals:
        first = refusals[0]
        first.chunks = [chunk for refusal in refusals for chunk in refusal.chunks]
        raise first
