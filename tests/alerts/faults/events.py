"""Faults of Kafka, of its topics, and of what the relay and the consumer remember."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource

from tests.alerts.faults.platform import TOPIC, Platform
from tests.alerts.faults.postgres import locked
from tests.alerts.faults.situation import Situation
from tests.infrastructure.proxy import Mode
from tests.infrastructure.shopping import an_order
from tests.infrastructure.waiting import eventually

LATE_SECONDS = 30.0
REASON = ("--reason", "the topic accepts it now", "--by", "test")


async def one_order(platform: Platform) -> None:
    """Buy something."""
    await platform.cluster.client("order-1").post("/v1/orders", an_order(*platform.load.a_customer()))


@asynccontextmanager
async def the_broker_hangs(platform: Platform) -> AsyncIterator[None]:
    """Stop the broker while customers buy."""
    async with platform.buying(2):
        await asyncio.to_thread(platform.broker.pause)
        try:
            yield
        finally:
            platform.broker.wake()


@asynccontextmanager
async def configured(platform: Platform, setting: str, value: str, topic: str = TOPIC) -> AsyncIterator[None]:
    """Give a topic a setting, and take it away again."""
    admin = AdminClient({"bootstrap.servers": platform.broker.address, "log_level": 0})

    async def alter(operation: AlterConfigOpType) -> None:
        entry = ConfigEntry(setting, value, incremental_operation=operation)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result, 10)

    await alter(AlterConfigOpType.SET)
    try:
        yield
    finally:
        await alter(AlterConfigOpType.DELETE)


@asynccontextmanager
async def the_topic_is_compacted(platform: Platform) -> AsyncIterator[None]:
    """Let Kafka remove all but an order's last event."""
    async with configured(platform, "cleanup.policy", "compact"):
        yield


@asynccontextmanager
async def the_topic_wants_more_brokers(platform: Platform) -> AsyncIterator[None]:
    """Let the topic ask for two replicas in sync, where there is one broker."""
    async with configured(platform, "min.insync.replicas", "2"):
        yield


@asynccontextmanager
async def no_watermark_is_taken(platform: Platform) -> AsyncIterator[None]:
    """Let the topic of watermarks accept no record of their size, while events are published."""
    async with configured(platform, "max.message.bytes", "10", f"{TOPIC}.watermarks"):
        await one_order(platform)  # so that there is something to announce
        yield


@asynccontextmanager
async def the_topic_refuses_an_event(platform: Platform) -> AsyncIterator[None]:
    """Let the topic accept small records only, until the refused event's partition is past the retention."""
    operator = platform.operator
    async with configured(platform, "max.message.bytes", "100"):
        await one_order(platform)

        async def is_parked() -> object:
            return await operator.fetchval("SELECT count(*) FROM orders.outbox WHERE status = 'PARKED'")

        await eventually(is_parked, LATE_SECONDS, "a parked event")

        async def has_rotated() -> bool:
            return bool(await operator.fetchval("SELECT orders.rotate_outbox(0)") == "rotated")

        await eventually(has_rotated, LATE_SECONDS, "a new partition of the outbox")
        await operator.execute(
            "UPDATE orders.outbox_partitions SET closed_at = closed_at - interval '60 days' WHERE published_at IS NULL"
        )
        yield
    await platform.relay_command("services.relay.admin", "retry", "--all", *REASON)


@asynccontextmanager
async def a_shard_is_restored(platform: Platform) -> AsyncIterator[None]:
    """Let a shard's row in the database be another time's than Kafka."""
    await platform.operator.execute(
        "UPDATE relay.shards SET batch_number = batch_number + 7, epoch = epoch + 1 WHERE shard = 2"
    )
    try:
        yield
    finally:
        await platform.relay_command("services.relay", "bootstrap")


@asynccontextmanager
async def nobody_listens(platform: Platform) -> AsyncIterator[None]:
    """Break the relay's connection for notifications."""
    platform.listening.set(Mode.CLOSED)
    try:
        yield
    finally:
        platform.listening.set(Mode.OPEN)


@asynccontextmanager
async def the_consumer_is_blocked(platform: Platform) -> AsyncIterator[None]:
    """Lock the consumer's table of events, while customers buy."""
    async with platform.buying(4), locked(platform, "platform.inbox", "EXCLUSIVE"):
        yield


@asynccontextmanager
async def somebody_else_writes(platform: Platform) -> AsyncIterator[None]:
    """Write a record to the topic that is no event. At the end, resolve the dead letter."""
    producer = Producer({"bootstrap.servers": platform.broker.address, "log_level": 0})
    producer.produce(TOPIC, b"no event")
    assert await asyncio.to_thread(producer.flush, LATE_SECONDS) == 0
    try:
        yield
    finally:
        await platform.operator.execute(
            "UPDATE platform.dead_letters SET resolved_at = clock_timestamp() WHERE resolved_at IS NULL"
        )


SITUATIONS = [
    Situation("the broker hangs", the_broker_hangs, {"EventsUnpublished": {}}),
    Situation("the topic is compacted", the_topic_is_compacted, {"TopicRefused": {}}),
    Situation("the topic wants more brokers than there are", the_topic_wants_more_brokers, {"TopicDoubtful": {}}),
    Situation("Kafka takes no watermark", no_watermark_is_taken, {"WatermarkBehind": {}}),
    Situation("the topic refuses an event", the_topic_refuses_an_event, {"EventsParked": {}, "OutboxGrows": {}}),
    Situation("a shard is restored without Kafka", a_shard_is_restored, {"ShardRefused": {"shard": "2"}}),
    Situation("nobody listens for notifications", nobody_listens, {"RelayNotListening": {}}),
    Situation("the consumer is blocked", the_consumer_is_blocked, {"ConsumerBehind": {}}),
    Situation("somebody else writes to the topic", somebody_else_writes, {"ConsumerRefuses": {}}),
]
