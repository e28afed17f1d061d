"""Decides up to which time minutes can be compared, and names forged watermarks.

Everybody who may write to the watermark topic can publish a watermark. So a watermark only wakes this consumer up. The
time comes from the relay's API, and the offsets from Kafka itself, asked after the relay. Every event up to that time
was published before, so the offsets are behind all of them.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from . import store
from .events import parse_timestamp
from .relay import Relay
from .runtime import Pool, Unavailable
from .settings import ConsumerSettings

log = structlog.get_logger()

KAFKA_SECONDS = 10.0

Watermark = Mapping[str, Any]  # the body of a watermark, as docs/events.md describes it


class Watermarks:
    """Follows the relay's watermark. `announced`: the watermarks that this process has read from the topic."""

    def __init__(self, settings: ConsumerSettings, pool: Pool, relay: Relay, announced: deque[Watermark]) -> None:
        self._settings = settings
        self._pool = pool
        self._relay = relay
        self._announced = announced

    async def follow(self) -> None:
        """If a watermark was read, store how far the relay is, and name the forged ones. Raises Unavailable."""
        count = len(self._announced)  # watermarks that are read meanwhile may be later than the relay's answer
        if not count:
            return
        up_to, oldest = await self._relay.up_to(), await self._relay.oldest()
        ends = await topic_ends(self._settings)
        true: Watermark | None = None
        for body in [self._announced.popleft() for _ in range(count)]:
            reason = why_forged(body, up_to, ends)
            if reason is None:
                true = body
            else:
                log.error("watermark.forged", up_to=body["up_to"], partitions=body["partitions"], reason=reason)
        if up_to is not None:
            async with self._pool.connection() as db:
                await store.keep_watermark(db, self._settings.topic, up_to, oldest, ends, true)


async def topic_ends(settings: ConsumerSettings) -> dict[str, int]:
    """Return the end of each partition, open transactions included. Raises Unavailable.

    A transaction that is open may hide records from `read_committed` that are committed already.
    """
    topic = settings.topic
    try:
        options = settings.kafka_options()
    except (OSError, ValueError) as error:
        raise Unavailable(f"Kafka's credentials can't be read: {error}") from error
    async with asyncio.timeout(KAFKA_SECONDS):
        # New clients each time: they use replaced passwords, and see new partitions at once.
        admin = AIOKafkaAdminClient(**options)
        try:
            await admin.start()
            # Of all topics: a broker may create a topic that a client asks for by name.
            found = [one["partitions"] for one in await admin.describe_topics() if one["topic"] == topic]
        finally:
            await admin.close()
        if not found or not found[0]:
            raise Unavailable(f"the topic {topic} is not there")
        partitions = [TopicPartition(topic, one["partition"]) for one in found[0]]
        async with AIOKafkaConsumer(isolation_level="read_uncommitted", **options) as consumer:
            ends = await consumer.end_offsets(partitions)
    return {str(partition.partition): ends[partition] for partition in partitions}


def why_forged(body: Watermark, up_to: datetime | None, ends: Mapping[str, int]) -> str | None:
    """Return why a watermark can't be the relay's, or None. `up_to`, `ends`: as far as relay and topic are now."""
    if up_to is None or parse_timestamp(body["up_to"]) > up_to:
        return "it is later than the relay's own"
    if body["partitions"].keys() - ends.keys():
        return "it names a partition that the topic does not have"
    if any(offset > ends[partition] for partition, offset in body["partitions"].items()):
        return "it names an offset that its partition does not have"
    return None
