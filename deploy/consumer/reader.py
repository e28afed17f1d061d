"""Reads the topic and its watermarks. The members of a Kafka group share the partitions.

Positions are in the platform's own database, and change in one transaction with the effects of the records. So each
record counts once, whichever process dies at any time. A process that lost a partition and doesn't know it yet changes
nothing: it finds that the position has moved.
"""

import asyncio
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from prometheus_client import Counter, Gauge

from . import intake, store
from .events import Event, Undecodable, decode, decode_watermark
from .runtime import REGISTRY, Connection, Pool, Unavailable
from .settings import ConsumerSettings
from .tracing import processed

log = structlog.get_logger()

LAG = Gauge("consumer_lag_records", "Records of a partition not yet processed", ["partition"], registry=REGISTRY)
LOST_BATCHES = Counter("consumer_lost_batches_total", "Batches dropped for another process", registry=REGISTRY)

POLL_MILLISECONDS = 200
STOP_SECONDS = 3.0
POSITION_SECONDS = 5.0
# How long new partitions, or a topic that was created again, stay unnoticed. The library's default is 5 minutes.
METADATA_MILLISECONDS = 5_000
ANNOUNCED_MAX = 100  # the oldest are dropped: any of them only says that the relay may be further

Records = Mapping[TopicPartition, Sequence[ConsumerRecord]]
Moves = Mapping[TopicPartition, tuple[int, int]]  # expected and new position
Letters = list[tuple[ConsumerRecord, str]]  # dead letters: a record and the reason


class PositionLostError(Exception):
    """Another process has moved a partition's position."""


class Reader(ConsumerRebalanceListener):  # type: ignore[misc] # the library publishes no types
    """One member of the group."""

    def __init__(self, settings: ConsumerSettings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._consumer: AIOKafkaConsumer | None = None
        # The position of each partition in the database, as far as this process can be sure of it.
        self._known: dict[TopicPartition, int] = {}
        self._problem: str | None = "not started"
        self._topics = list(settings.sources)
        # By topic: watermarks, not compared yet.
        self.announced: Mapping[str, deque[Mapping[str, Any]]] = {
            one: deque(maxlen=ANNOUNCED_MAX) for one in self._topics
        }
        self._files: tuple[object, ...] = ()  # of the access to Kafka, as they were when the client connected

    async def __aenter__(self) -> "Reader":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def check(self) -> None:
        """Raise Unavailable unless the topic is being read."""
        if self._problem is not None:
            raise Unavailable(self._problem)

    async def read(self) -> None:
        """Read one batch and store what it contains. After an error, the next call begins anew."""
        try:
            if self._consumer is not None and self._access_replaced():
                await self._close()
            consumer = self._consumer or await self._open()
            await self._read_batch(consumer)
            missing = [topic for topic in self._topics if not consumer.partitions_for_topic(topic)]
            self._problem = f"the topic {', '.join(missing)} is not there" if missing else None
        except BaseException as error:
            self._problem = f"{type(error).__name__}: {error}"
            await self._close()
            raise

    async def _open(self) -> AIOKafkaConsumer:
        settings = self._settings
        session_milliseconds = int(settings.session_seconds * 1000)
        self._consumer = consumer = AIOKafkaConsumer(
            **self._access(),
            group_id=settings.group,
            group_instance_id=settings.instance,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=session_milliseconds,
            heartbeat_interval_ms=session_milliseconds // 5,
            metadata_max_age_ms=METADATA_MILLISECONDS,
        )
        await consumer.start()
        # By a pattern: a broker may create a topic that a client asks for by name.
        topics = "|".join(map(re.escape, self._topics))
        consumer.subscribe(pattern=rf"(?:{topics})(\.watermarks)?\Z", listener=self)
        return consumer

    def _access(self) -> dict[str, Any]:
        try:
            self._files = self._settings.kafka_files()
            return self._settings.kafka_options()
        except (OSError, ValueError) as error:
            raise Unavailable(f"Kafka's credentials can't be read: {error}") from error

    def _access_replaced(self) -> bool:
        """Return whether a password or certificate was replaced. The client would use the old one for ever.

        While a file is missing, the client goes on with what it has.
        """
        try:
            return self._settings.kafka_files() != self._files
        except OSError:
            return False

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._known.clear()
        if consumer is not None:
            with suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(STOP_SECONDS):
                    await consumer.stop()

    def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - the signature is the library's
        """Trust no position any more."""
        self._known.clear()

    def on_partitions_assigned(self, assigned: Any) -> None:  # noqa: ARG002 - the signature is the library's
        """Trust no position: another process may have moved it."""
        self._known.clear()

    async def _read_batch(self, consumer: AIOKafkaConsumer) -> None:
        records: Records = await consumer.getmany(
            timeout_ms=POLL_MILLISECONDS, max_records=self._settings.batch_records
        )
        unknown = [partition for partition in consumer.assignment() if partition not in self._known]
        if unknown:
            await self._resume(consumer, unknown)  # their records are fetched again, from the stored position
            records = {partition: found for partition, found in records.items() if partition not in unknown}
        known = dict(self._known)
        moves: dict[TopicPartition, tuple[int, int]] = {}
        for partition in known.keys() & consumer.assignment():
            found = records.get(partition)
            # Without records the position still passes the markers of transactions, and aborted records.
            position = found[-1].offset + 1 if found else await _position(consumer, partition)
            if position < known[partition]:
                # The topic was created again, and the client returned to its beginning: read the stored position again.
                self._known.pop(partition, None)
            elif position > known[partition]:
                moves[partition] = (known[partition], position)
        self._measure(consumer)  # also before what follows, which a locked table or a full disk may prevent
        if moves and moves.keys() <= self._known.keys():
            await self._commit({one: found for one, found in records.items() if one in moves}, moves)
        self._measure(consumer)

    def _measure(self, consumer: AIOKafkaConsumer) -> None:
        """Set the lag of each partition whose position is known."""
        for partition in consumer.assignment():
            end = consumer.last_stable_offset(partition) or consumer.highwater(partition)
            if end is not None and partition in self._known and partition.topic in self._topics:
                number = partition.partition
                label = number if len(self._topics) == 1 else f"{partition.topic}/{number}"
                LAG.labels(label).set(max(0, end - self._known[partition]))

    async def _resume(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        """Continue at the stored positions, or at the beginning where the topic doesn't have the stored position."""
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        for topic in {one.topic for one in partitions}:
            own = [one for one in partitions if one.topic == topic]
            async with self._pool.transaction() as db:
                await store.begin_partitions(db, topic, {one.partition: begins[one] for one in own})
                positions = await store.positions(db, topic)
                moves = {
                    one.partition: (positions[one.partition], begins[one])
                    for one in own
                    if not begins[one] <= positions[one.partition] <= ends[one]
                }
                if moves:
                    log.warning("position.reset", topic=topic, partitions=sorted(moves))
                if topic not in self._topics:
                    # The newest watermark again: a process may have ended before it compared it. While nothing happens,
                    # the next one comes a minute later.
                    newest = {one.partition: max(begins[one], ends[one] - 1) for one in own}
                    moves |= {
                        number: (positions[number], at) for number, at in newest.items() if positions[number] > at
                    }
                if moves:
                    await store.move_positions(db, topic, moves)
                    positions = await store.positions(db, topic)
            for one in own:
                if one in consumer.assignment():
                    consumer.seek(one, positions[one.partition])
                    self._known[one] = positions[one.partition]

    async def _commit(self, records: Records, moves: Moves) -> None:
        """Store the records' effects and the new positions, both or neither."""
        try:
            with processed(record for found in records.values() for record in found):
                async with self._pool.transaction() as db:
                    letters = await self._store(db, records, moves)
        except PositionLostError:
            LOST_BATCHES.inc()
            log.info("batch.dropped", partitions=[one.partition for one in moves])
            self._known.clear()
            return
        except BaseException:
            self._known.clear()  # whether the transaction was committed is unknown
            raise
        for record, reason in letters:
            place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            log.error("dead_letter.stored", **place, reason=reason)
        for partition, (expected, position) in moves.items():
            if self._known.get(partition) == expected:
                self._known[partition] = position

    async def _store(self, db: Connection, records: Records, moves: Moves) -> Letters:
        """Store records in the caller's transaction, and return the dead letters. Raises PositionLostError."""
        for name in sorted({one.topic for one in moves}):
            own = {one.partition: move for one, move in moves.items() if one.topic == name}
            if not await store.move_positions(db, name, own):
                raise PositionLostError
        events: dict[Event, ConsumerRecord] = {}
        letters: Letters = []
        for record in (record for found in records.values() for record in found):
            if record.topic not in self._topics:
                self._announce(record)
                continue
            try:
                place = (record.partition, record.offset)
                events[decode(record.headers, record.value, record.topic, place)] = record
            except Undecodable as error:
                letters.append((record, str(error)))
        taken = await intake.take(db, list(events), "topic")
        for event in taken.contradicting:
            letters.append((events[event], f"another event has this id, or sequence {event.sequence} of this order"))
        await store.insert_dead_letters(db, letters)
        return letters

    def _announce(self, record: ConsumerRecord) -> None:
        topic = record.topic.removesuffix(".watermarks")
        body = decode_watermark(record.headers, record.value)
        if body is None or body["topic"] != topic:
            log.warning("watermark.unreadable", topic=topic, offset=record.offset)
        else:
            self.announced[topic].append(body)


async def _position(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
    """Return the client's position. Raises TimeoutError: for a deleted topic, the library would wait for ever."""
    async with asyncio.timeout(POSITION_SECONDS):
        position: int = await consumer.position(partition)
    return position
