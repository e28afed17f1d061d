"""The duty of one replica: find out up to which moment everything is published, and tell it on a topic of its own.

The order of the steps is what makes the word true: first the database says that every event up to the moment is SENT,
then Kafka is asked how far its topic goes, then both are told.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiokafka import TopicPartition

from services.relay import metrics
from services.relay.completeness import store as history_store
from services.relay.completeness.store import WatermarkAdvance
from services.relay.domain.batching import AdaptiveTimeout
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed, bounded, started, stopped
from services.relay.kafka.records import Header, rfc3339
from services.relay.settings import RelaySettings
from shared import connecting
from shared.background import LoopSupervisor
from shared.concurrency import wait_for
from shared.contracts.watermark import SOURCE, WATERMARK, OrderWatermark
from shared.http.server import encode
from shared.ids import uuid7
from shared.kafka import KafkaConsumer, KafkaProducer
from shared.postgres import Pool
from shared.refusals import Unavailable

MISSING_MAX = 100  # parked orders beyond that are for operators to look at, not for consumers
IDLE_SECONDS = 60.0  # how long consumers hear nothing while nothing changes
# What was on the topic when a change was seen may be younger than the moment told with it, and than the moment marked
# by then; the one after those is younger than what was seen.
MOVES_AFTER_CHANGE = 2
# While an old snapshot keeps dead entries in the index of what waits, a call walks over all of them: it may take a
# twentieth of the time, not more.
IDLE_RATIO = 19
END_SECONDS = 1.0  # with what cancelling takes, a process is gone within 8 s even while the broker hangs


@dataclass(frozen=True, slots=True)
class Announcement:
    """What was announced last and when, by this process' clock; and how many further moments are worth telling although
    nothing else changes."""

    up_to: datetime
    body: dict[str, Any]
    at: float
    moves: int


class Watermark:
    """Holds the duty if nobody else does, and does it."""

    def __init__(self, settings: RelaySettings, pool: Pool, broker: Broker) -> None:
        self._settings = settings
        self._pool = pool
        self._broker = broker
        self._began = 0.0
        self._kafka: tuple[KafkaProducer, KafkaConsumer] | None = None
        self._announced: Announcement | None = None
        self._ended = asyncio.Event()
        self._timeout = AdaptiveTimeout(connecting.COMMAND_TIMEOUT_SECONDS)
        self._call_seconds = 0.0  # what the last call of the database took, though it may have failed

    async def run(self, stop: asyncio.Event) -> None:
        """Advance and announce until `stop` is set; then leave the duty to others at once."""
        self._began = asyncio.get_running_loop().time()
        supervisor = LoopSupervisor("watermark", "watermark.failed", expected=(Unavailable, BrokerFailed))
        try:
            while not stop.is_set():
                with supervisor:
                    await self._once()
                pause = max(self._settings.watermark_interval_seconds, IDLE_RATIO * self._call_seconds)
                await wait_for(stop, supervisor.pause(pause))
        finally:
            try:
                await self._give_up()
            finally:
                self._ended.set()

    async def ended(self) -> None:
        """Wait until `run` has left the duty, but not for a broker that hangs."""
        await wait_for(self._ended, END_SECONDS)

    async def _once(self) -> None:
        started = asyncio.get_running_loop().time()
        # With the next call, at the end of which the lease is renewed.
        lease_seconds = self._lease_seconds + (IDLE_RATIO + 1) * self._call_seconds
        async with self._pool.connection() as connection:
            try:
                with self._timeout.limit() as seconds:
                    advance = await history_store.advance_watermark(
                        connection, self._settings.replica, lease_seconds, MISSING_MAX, timeout_seconds=seconds
                    )
            finally:
                self._call_seconds = asyncio.get_running_loop().time() - started
            status = await history_store.watermark(connection)
        # While none was ever reached it grows too, for the alert on it.
        waiting_seconds = asyncio.get_running_loop().time() - self._began
        metrics.WATERMARK_LAG.set(waiting_seconds if status.lag_seconds is None else status.lag_seconds)
        if advance is None:
            self._announced = None
            await self._close()
        elif advance.up_to is not None:
            try:
                await self._announce(advance, advance.up_to, started + lease_seconds)
            except Exception:
                await self._close()  # in doubt about their state
                raise

    @property
    def _lease_seconds(self) -> float:
        # Longer than a step takes at its worst, so that a slow broker doesn't make the duty change hands.
        return 2 * (self._settings.watermark_interval_seconds + self._settings.kafka_timeout_seconds)

    async def _announce(self, advance: WatermarkAdvance, up_to: datetime, deadline: float) -> None:
        """Tell what was reached, unless consumers know it."""
        view = self._broker.view
        if view.refused is not None:
            raise BrokerFailed(view.refused)  # what is on the topic may not be what was published
        await self._broker.ensure_topics()
        producer, consumer = await self._open()
        offsets = await self._offsets(consumer)
        body = {"partitions": offsets, "missing": advance.missing, "missing_count": advance.missing_count}
        now = asyncio.get_running_loop().time()
        announced = self._announced
        moves = MOVES_AFTER_CHANGE
        if announced is not None and announced.body == body:
            moves = max(0, announced.moves - (up_to > announced.up_to))
            if (up_to == announced.up_to or announced.moves == 0) and now - announced.at < IDLE_SECONDS:
                return
        if now > deadline:
            return  # this process was paused: another may have told more
        event = OrderWatermark.model_validate({"up_to": up_to, "topic": self._settings.topic, **body}, strict=False)
        async with bounded(self._settings.kafka_timeout_seconds):
            await producer.send_and_wait(
                self._settings.watermark_topic,
                key=self._settings.topic.encode(),
                value=encode(event.model_dump(mode="json")),
                headers=headers(self._settings.topic, up_to),
                partition=0,  # also where the topic was made with more
                timestamp_ms=view.milliseconds(),
            )
        self._announced = Announcement(up_to, body, now, moves)
        metrics.WATERMARKS.inc()

    async def _offsets(self, consumer: KafkaConsumer) -> dict[str, int]:
        """Return the end of each partition, transactions under way included.

        Not the end of what `read_committed` readers see: another shard's open transaction may hold that back before
        records that are committed already.
        """
        partitions = [TopicPartition(self._settings.topic, number) for number in await self._broker.partitions()]
        async with bounded(self._settings.kafka_timeout_seconds):
            ends = await consumer.end_offsets(partitions)
        return {str(partition.partition): ends[partition] for partition in partitions}

    async def _open(self) -> tuple[KafkaProducer, KafkaConsumer]:
        if self._kafka is None:
            # The options as well: a file that they are read from may be away for a moment.
            async with bounded(self._settings.kafka_timeout_seconds):
                common: dict[str, Any] = {
                    **self._settings.kafka_options(),
                    "client_id": f"{self._settings.replica}-watermark",
                    "request_timeout_ms": int(self._settings.kafka_timeout_seconds * 1000),
                }
                self._kafka = (
                    KafkaProducer(enable_idempotence=True, **common),
                    KafkaConsumer(group_id=None, isolation_level="read_uncommitted", **common),
                )
                for client in self._kafka:
                    await started(client)
        return self._kafka

    async def _close(self) -> None:
        clients, self._kafka = self._kafka, None
        await stopped(*clients or ())

    async def _give_up(self) -> None:
        await self._close()
        try:
            async with self._pool.connection() as connection:
                await history_store.release_watermark(connection, self._settings.replica)
        except Unavailable:
            pass  # the lease ends by itself


def headers(topic: str, up_to: datetime) -> list[Header]:
    """Return the CloudEvents attributes of a watermark as Kafka headers."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_source", SOURCE.encode()),
        ("content-type", b"application/json"),
        ("ce_id", str(uuid7()).encode()),
        ("ce_type", WATERMARK.encode()),
        ("ce_time", rfc3339(up_to).encode()),
        ("ce_subject", topic.encode()),
    ]
