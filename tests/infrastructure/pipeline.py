"""The path of an event in a test: an outbox, replicas of the relay, and a topic."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.relay.process import Relay
from services.relay.settings import RelaySettings
from shared.ids import uuid7
from shared.postgres.connections import Pool
from tests.infrastructure.waiting import eventually

PATIENCE_SECONDS = 20.0
# One statement, so that a test can decide what is in one transaction with it.
INSERT = """
    INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload, traceparent)
    VALUES ($1, $2, $3, $4, $5, $6) RETURNING outbox_id
"""


def order_in(shard: int, shards: int = 4) -> uuid.UUID:
    """Return a new order id that belongs to this one of so many shards."""
    order_id = uuid7()
    return uuid.UUID(int=order_id.int - order_id.int % shards + shard)


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a test."""

    order_id: uuid.UUID
    sequence: int
    event_id: uuid.UUID = field(default_factory=uuid7)
    payload: bytes = b'{"status":"PAID"}'
    traceparent: str | None = None

    async def insert(self, connection: asyncpg.Connection) -> int:
        """Write the event as the order service does; return its outbox id."""
        arguments = (self.event_id, self.order_id, self.sequence, "order.paid.v1", self.payload, self.traceparent)
        outbox_id: int = await connection.fetchval(INSERT, *arguments)
        return outbox_id


async def write(connection: asyncpg.Connection, events: Sequence[Event], *, notify: bool = True) -> None:
    """Commit events in one transaction and notify the relay, as the order service does."""
    async with connection.transaction():
        for event in events:
            await event.insert(connection)
        if notify:
            await connection.execute("SELECT pg_notify('orders_outbox', '')")


def header(record: ConsumerRecord, name: str) -> str:
    """Return the text of a record's header."""
    value: bytes = dict(record.headers)[name]
    return value.decode()


def identity(record: ConsumerRecord) -> tuple[str, int, str]:
    """Return what identifies an event on the topic: order, sequence, id."""
    return record.key.decode(), int(header(record, "ce_sequence")), header(record, "ce_id")


def expected(events: Sequence[Event]) -> list[tuple[str, int, str]]:
    """Return the identities of events."""
    return [(str(event.order_id), event.sequence, str(event.event_id)) for event in events]


class Reader:
    """Reads the committed records of a topic from its beginning."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self.records: list[ConsumerRecord] = []

    async def until(self, count: int, seconds: float = PATIENCE_SECONDS) -> list[ConsumerRecord]:
        """Return the records once there are `count` of them."""

        async def enough() -> bool:
            await self.more()
            return len(self.records) >= count

        await eventually(enough, seconds, f"{count} records on the topic")
        return self.records

    async def more(self) -> None:
        """Read the records that have arrived."""
        for records in (await self._consumer.getmany(timeout_ms=50)).values():
            self.records += records

    async def to_the_end(self) -> list[ConsumerRecord]:
        """Return the records, once everything that is on the topic now has been read."""
        ends = await self._consumer.end_offsets(self._partitions)

        async def all_read() -> bool:
            await self.more()
            return all([await self._consumer.position(partition) >= end for partition, end in ends.items()])

        await eventually(all_read, PATIENCE_SECONDS, "the end of the topic")
        return self.records


@dataclass
class Pipeline:
    """One test's outbox and topic; `relay` starts a replica between them."""

    url: str
    kafka: str
    topic: str
    connection: asyncpg.Connection
    real_broker: bool

    def settings(self, **changes: Any) -> RelaySettings:
        """Return a replica's settings, with short times."""
        values: dict[str, Any] = {
            "database_url": self.url,
            "kafka_bootstrap_servers": self.kafka,
            "topic": self.topic,
            "topic_replication": 1,  # most tests have one broker
            "lease_seconds": 1.0,
            "poll_interval_seconds": 0.2,
            "kafka_timeout_seconds": 5.0,
        }
        return RelaySettings(**(values | changes))

    @asynccontextmanager
    async def relay(self, **changes: Any) -> AsyncIterator[Relay]:
        """Run a replica; stop it in an orderly way at the end."""
        settings = self.settings(**changes)
        stop = asyncio.Event()
        async with Pool(settings, "relay") as pool:
            relay = Relay(settings, pool)
            running = asyncio.create_task(relay.run(stop))
            try:
                yield relay
            finally:
                stop.set()
                await running

    @asynccontextmanager
    async def reader(self, topic: str | None = None, **options: Any) -> AsyncIterator[Reader]:
        """Read the topic, which must exist."""
        topic = topic or self.topic
        partitions = await eventually(lambda: self._partitions(topic), PATIENCE_SECONDS, f"the topic {topic}")
        options = {"isolation_level": "read_committed", **options}
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka, group_id=None, **options)
        await consumer.start()
        try:
            consumer.assign(partitions)
            await consumer.seek_to_beginning()
            yield Reader(consumer, partitions)
        finally:
            await consumer.stop()

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        try:
            if topic not in await admin.list_topics():
                return []
            (description,) = await admin.describe_topics([topic])
        finally:
            await admin.close()
        return sorted(TopicPartition(topic, partition["partition"]) for partition in description["partitions"])

    async def statuses(self) -> dict[str, int]:
        """Return how many events have each status."""
        rows = await self.connection.fetch("SELECT status, count(*) FROM orders.outbox GROUP BY status")
        return {row["status"]: row["count"] for row in rows}

    async def until_sent(self, count: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until `count` events are marked SENT."""

        async def marked() -> bool:
            return (await self.statuses()).get("SENT", 0) >= count

        await eventually(marked, seconds, f"{count} events marked SENT")

    async def until_held(self, replica: str | None = None, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until all shards have been taken over, by `replica` if one is named."""
        query = """
            SELECT bool_and(declared AND holder IS NOT NULL AND ($1::text IS NULL OR holder = $1)) FROM relay.shards
        """
        await eventually(lambda: self.connection.fetchval(query, replica), seconds, "a holder of every shard")

    async def positions(self) -> dict[int, int]:
        """Return the last number committed to Kafka, by shard."""
        async with self.reader(f"{self.topic}.positions") as reader:
            return {record.partition: int(record.value) for record in await reader.to_the_end()}


async def assert_sent_once(pipeline: Pipeline, events: Sequence[Event]) -> None:
    """Check that a new relay marks all events SENT, and that the topic has each of them once and nothing else."""
    async with pipeline.relay(), pipeline.reader() as reader:
        await pipeline.until_sent(len(events))
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(events))


@asynccontextmanager
async def producing(kafka: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """Return a producer that is not the relay's."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()
