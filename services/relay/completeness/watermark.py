"""Determines, on one replica, up to which time all events are published, and announces it on a separate topic.

The order of the steps makes the announcement true. First the database confirms that every event up to that time is
SENT, then Kafka returns the end of each partition, then both are announced.
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
from services.relay.kafka.client import BrokerFailed, bounded, stopped
from services.relay.kafka.records import Header, rfc3339
from services.relay.settings import RelaySettings
from shared.contracts.watermark import SOURCE, WATERMARK, OrderWatermark
from shared.encoding import encode
from shared.ids import uuid7
from shared.kafka import KafkaConsumer, KafkaProducer
from shared.leadership import Leadership
from shared.postgres import connecting
from shared.postgres.connections import Connection, Pool
from shared.process.tasks import LoopSupervisor, wait_for
from shared.refusals import Unavailable

MISSING_MAX = 100  # more parked orders are a case for operators, not for consumers
IDLE_SECONDS = 60.0  # the longest time without an announcement
# The offsets that showed a change may belong to events after the announced time, and after the time marked by then. The
# time after those two is later than the offsets.
MOVES_AFTER_CHANGE = 2
# While an old snapshot keeps dead entries in the index of pending events, a call passes over all of them. It may take a
# twentieth of the time at most.
IDLE_RATIO = 19
END_SECONDS = 1.0  # with the time to cancel, a process ends within 8 s even if the broker hangs


@dataclass(frozen=True, slots=True)
class Announcement:
    """The last announcement, and when it was made by this process' clock.

    `moves`: how many more times are announced although nothing else changes.
    """

    up_to: datetime
    body: dict[str, Any]
    at: float
    moves: int


class Watermark:
    """Advances and announces the watermark while this replica is the leader."""

    def __init__(self, settings: RelaySettings, pool: Pool, broker: Broker) -> None:
        self._settings = settings
        self._pool = pool
        self._broker = broker
        self._began = 0.0
        self._kafka: tuple[KafkaProducer, KafkaConsumer] | None = None
        self._announced: Announcement | None = None
        self._unannounced_since: float | None = None  # since when Kafka has taken no announcement
        self._ended = asyncio.Event()
        self._timeout = AdaptiveTimeout(connecting.COMMAND_TIMEOUT_SECONDS)
        self._call_seconds = 0.0  # the duration of the last call of the database, even if it failed
        self._leadership = Leadership(
            self._advance, lambda connection: history_store.release_watermark(connection, settings.replica)
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Advance and announce until `stop` is set; then release the leadership immediately."""
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
        """Wait until `run` has released the leadership, for END_SECONDS at most."""
        await wait_for(self._ended, END_SECONDS)

    async def _once(self) -> None:
        started = asyncio.get_running_loop().time()
        # Longer than the slowest step, so that a slow broker does not change the leader; and long enough for the next
        # call, which renews the lease at its end.
        step_seconds = self._settings.watermark_interval_seconds + self._settings.kafka_timeout_seconds
        lease_seconds = 2 * step_seconds + (IDLE_RATIO + 1) * self._call_seconds
        async with self._pool.connection() as connection:
            try:
                advance = await self._leadership.renew(connection, lease_seconds)
            finally:
                self._call_seconds = asyncio.get_running_loop().time() - started
            status = await history_store.watermark(connection)
        now = asyncio.get_running_loop().time()
        if advance is None:
            self._announced = None
            self._unannounced_since = None
            await self._close()
        self._report_lag(status.lag_seconds, now)
        if advance is not None and advance.up_to is not None:
            try:
                await self._announce(advance, advance.up_to, status.shards)
            except Exception:
                self._unannounced_since = self._unannounced_since or now
                await self._close()  # their state is unknown
                raise
            self._unannounced_since = None

    def _report_lag(self, database_seconds: float | None, now: float) -> None:
        """Set the metric. It grows also while there was never a watermark, or none is announced, for its alert."""
        lag_seconds = now - self._began if database_seconds is None else database_seconds
        # A watermark in the database proves nothing to consumers before it is announced.
        unannounced_seconds = 0.0 if self._unannounced_since is None else now - self._unannounced_since
        metrics.WATERMARK_LAG.set(max(lag_seconds, unannounced_seconds))

    async def _advance(self, connection: Connection, lease_seconds: float) -> WatermarkAdvance | None:
        with self._timeout.limit() as seconds:
            return await history_store.advance_watermark(
                connection, self._settings.replica, lease_seconds, MISSING_MAX, timeout_seconds=seconds
            )

    async def _announce(self, advance: WatermarkAdvance, up_to: datetime, shards: int) -> None:
        """Announce the watermark, unless the last announcement said the same."""
        view = self._broker.view
        if view.refused is not None:
            raise BrokerFailed(view.refused)  # the topic may not hold what was published
        await self._broker.ensure_topics(shards)
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
        if not self._leadership.is_certain:
            return  # this process was paused: another replica may have announced more
        event = OrderWatermark.model_validate({"up_to": up_to, "topic": self._settings.topic, **body}, strict=False)
        async with bounded(self._settings.kafka_timeout_seconds):
            await producer.send_and_wait(
                self._settings.watermark_topic,
                key=self._settings.topic.encode(),
                value=encode(event.model_dump(mode="json")),
                headers=headers(self._settings.topic, up_to),
                partition=0,  # even if the topic has more
                timestamp_ms=view.milliseconds(),
            )
        self._announced = Announcement(up_to, body, now, moves)
        metrics.WATERMARKS.inc()

    async def _offsets(self, consumer: KafkaConsumer) -> dict[str, int]:
        """Return the end offset of each partition, open transactions included.

        Not the end for `read_committed` readers: another shard's open transaction may keep it before records that are
        committed already.
        """
        partitions = [TopicPartition(self._settings.topic, number) for number in await self._broker.partitions()]
        async with bounded(self._settings.kafka_timeout_seconds):
            ends = await consumer.end_offsets(partitions)
        return {str(partition.partition): ends[partition] for partition in partitions}

    async def _open(self) -> tuple[KafkaProducer, KafkaConsumer]:
        if self._kafka is None:
            # The options too: their files may be missing for a short time.
            async with bounded(self._settings.kafka_timeout_seconds):
                common = self._settings.client_options() | {"client_id": f"{self._settings.replica}-watermark"}
                self._kafka = (
                    KafkaProducer(enable_idempotence=True, **common),
                    KafkaConsumer(group_id=None, isolation_level="read_uncommitted", **common),
                )
                for client in self._kafka:
                    await client.start()
        return self._kafka

    async def _close(self) -> None:
        clients, self._kafka = self._kafka, None
        await stopped(*clients or ())

    async def _give_up(self) -> None:
        await self._close()
        await self._leadership.release(self._pool)


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
