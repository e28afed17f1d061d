"""Reads from Kafka which batch of a shard was committed last."""

from typing import Any

from aiokafka import TopicPartition

from services.relay.kafka.client import BrokerFailed, bounded, stopped
from services.relay.settings import RelaySettings
from shared.kafka import KafkaConsumer

# A commit leaves a record and a marker; a few aborted batches fit as well. Further back the steps grow.
STEP_RECORDS = 16
STEP_GROWTH = 16
FETCH_MILLISECONDS = 200


async def last_committed(settings: RelaySettings, shard: int) -> int | None:
    """Return the number of the last batch committed, or None if there is none at all. Raises BrokerFailed.

    Call it after the shard's producer was opened. That ends the previous producer's transaction, so that nothing
    between the last stable offset and the end can still be committed.
    """
    consumer = KafkaConsumer(
        **settings.client_options(),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_wait_ms=FETCH_MILLISECONDS,
    )
    try:
        async with bounded(settings.kafka_timeout_seconds):
            await consumer.start()
            return await _search(consumer, TopicPartition(settings.position_topic, shard))
    finally:
        await stopped(consumer)


async def _search(consumer: KafkaConsumer, partition: TopicPartition) -> int | None:
    first = (await consumer.beginning_offsets([partition]))[partition]
    stable_end = (await consumer.end_offsets([partition]))[partition]
    consumer.assign([partition])
    end, step = stable_end, STEP_RECORDS
    while end > first:
        start = max(first, end - step)
        value = await _last_value(consumer, partition, start, end)
        _check_stable(consumer, partition, stable_end)
        if value is not None:
            return int(value)
        end, step = start, step * STEP_GROWTH
    return None


async def _last_value(consumer: KafkaConsumer, partition: TopicPartition, start: int, end: int) -> bytes | None:
    consumer.seek(partition, start)
    last: bytes | None = None
    while await consumer.position(partition) < end:
        records: dict[Any, Any] = await consumer.getmany(partition, timeout_ms=FETCH_MILLISECONDS)
        for record in records.get(partition, ()):
            if record.offset < end:
                last = record.value
    return last


def _check_stable(consumer: KafkaConsumer, partition: TopicPartition, stable_end: int) -> None:
    high_water = consumer.highwater(partition)
    if high_water is not None and high_water > stable_end:
        raise BrokerFailed(f"{partition.topic}-{partition.partition} has an unsettled transaction")
