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
from .relay import Relays
from .runtime import Pool, Unavailable, all_of
from .settings import ConsumerSettings

log = structlog.get_logger()

KAFKA_SECONDS = 10.0

Watermark = Mapping[str, Any]  # the body of a watermark, as docs/events.md describes it


class Watermarks:
    """Follows the watermark of each topic's relay. `announced`: by topic, the watermarks that this process has read."""

    def __init__(
        self, settings: ConsumerSettings, pool: Pool, relays: Relays, announced: Mapping[str, deque[Watermark]]
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._relays = relays
        self._announced = announced

    async def follow(self) -> None:
        """If watermarks were read, store how far the relays are, and name the forged ones. Raises Unavailable."""
        await all_of(self._follow(topic) for topic in self._relays)

    async def _follow(self, topic: str) -> None:
        announced, relay = self._announced[topic], self._relays[topic]
        count = len(announced)  # watermarks that are read meanwhile may be later than the relay's answer
        if not count:
            return
        up_to, oldest = await relay.up_to(), await relay.oldest()
        ends = await topic_ends(self._settings, topic)
        true: Watermark | None = None
        for body in [announced.popleft() for _ in range(count)]:
            reason = why_forged(body, up_to, ends)
            if reason is None:
                true = body
            else:
                known = {"topic": topic, "up_to": body["up_to"], "partitions": body["partitions"]}
                log.error("watermark.forged", **known, reason=reason)
        if up_to is not None:
            async with self._pool.connection() as db:
                await store.keep_watermark(db, topic, up_to, oldest, ends, true)


async def topic_ends(settings: ConsumerSettings, topic: str) -> dict[str, int]:
    """Return the end of each partition of a topic, open transactions included. Raises Unavailable.

    A transaction that is open may hide records from `read_committed` that are committed already.
    """
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
