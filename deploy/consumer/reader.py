"""Reads the topic: a group shares its partitions, but where to go on is in the platform's own database, in one
transaction with what was made of the records. So a record counts once, whoever dies when, and a process that has lost a
partition and doesn't know it yet changes nothing."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from deploy.consumer import intake, metrics, store
from deploy.consumer.events import Event, Undecodable, decode, identity
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.store import DeadLetter
from shared.background import LoopSupervisor
from shared.concurrency import wait_for
from shared.kafka import KafkaConsumer
from shared.postgres import Pool
from shared.refusals import Unavailable

log = structlog.get_logger()

POLL_MILLISECONDS = 200
BACKOFF_SECONDS = 0.5
STOP_SECONDS = 3.0
POSITION_SECONDS = 5.0
# How long a topic that comes back, or partitions that are added, go unnoticed. The library's 5 minutes suit nobody who
# waits for events.
METADATA_MILLISECONDS = 5_000

Records = Mapping[TopicPartition, Sequence[ConsumerRecord]]


class PositionLostError(Exception):
    """Another process has moved a partition on."""


class NotReadingError(Exception):
    """The topic is not read at the moment."""


class Reader(ConsumerRebalanceListener):  # type: ignore[misc] # the library publishes no types
    """One member of the group."""

    def __init__(self, settings: ConsumerSettings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        # By partition, the position in the database as this process knows it; whatever casts doubt on it takes it out.
        self._known: dict[TopicPartition, int] = {}
        self._trouble: str | None = "not started"
        expected = (KafkaError, OSError, Unavailable, TimeoutError)
        self._supervisor = LoopSupervisor("reader", "reading interrupted", expected=expected)

    async def check(self) -> None:
        """Raise unless the topic is being read."""
        if self._trouble is not None:
            raise NotReadingError(self._trouble)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set."""
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a line for each try of each connection
        while not stop.is_set():
            with self._supervisor:
                await self._read(stop)
            await wait_for(stop, self._supervisor.pause(BACKOFF_SECONDS))

    async def _read(self, stop: asyncio.Event) -> None:
        settings = self._settings
        session_milliseconds = int(settings.session_seconds * 1000)
        consumer = KafkaConsumer(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            group_id=settings.group,
            group_instance_id=settings.instance,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=session_milliseconds,
            heartbeat_interval_ms=session_milliseconds // 5,
            metadata_max_age_ms=METADATA_MILLISECONDS,
        )
        self._known.clear()
        try:
            await consumer.start()
            consumer.subscribe([settings.topic], listener=self)
            while not stop.is_set():
                await self._once(consumer)
                there = consumer.partitions_for_topic(settings.topic)
                self._trouble = None if there else f"the topic {settings.topic} is not there"
                self._supervisor.succeeded()
        except Exception as error:
            self._trouble = f"{type(error).__name__}: {error}"
            raise
        finally:
            with suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(STOP_SECONDS):
                    await consumer.stop()

    def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - the signature is the library's
        """Trust no position any more."""
        self._known.clear()

    def on_partitions_assigned(self, assigned: Any) -> None:  # noqa: ARG002 - the signature is the library's
        """Trust no position: another process may have moved it."""
        self._known.clear()

    async def _once(self, consumer: KafkaConsumer) -> None:
        records: Records = await consumer.getmany(
            timeout_ms=POLL_MILLISECONDS, max_records=self._settings.batch_records
        )
        unknown = [partition for partition in consumer.assignment() if partition not in self._known]
        if unknown:
            await self._resume(consumer, unknown)  # what was fetched of them is fetched again from there
            records = {partition: found for partition, found in records.items() if partition not in unknown}
        known = dict(self._known)
        moves: dict[TopicPartition, tuple[int, int]] = {}
        for partition in known.keys() & consumer.assignment():
            found = records.get(partition)
            # Without records the position passes over the marks of transactions, and over aborted ones.
            position = found[-1].offset + 1 if found else await _position(consumer, partition)
            if position < known[partition]:
                # The topic was made again, and the client went back to its beginning: ask the database how to go on.
                self._known.pop(partition, None)
            elif position > known[partition]:
                moves[partition] = (known[partition], position)
        taken = {partition: found for partition, found in records.items() if partition in moves}
        if moves and moves.keys() <= self._known.keys():
            await self._commit(taken, moves)
        for partition in consumer.assignment():
            end = consumer.last_stable_offset(partition) or consumer.highwater(partition)
            if end is not None and partition in self._known:
                metrics.LAG.labels(partition.partition).set(max(0, end - self._known[partition]))

    async def _resume(self, consumer: KafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        """Go on where the database says; from the beginning if that is not on the topic (any more)."""
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        topic = self._settings.topic
        async with intake.transaction(self._pool) as db:
            await store.begin_partitions(db, topic, {one.partition: begins[one] for one in partitions})
            positions = await store.positions(db, topic)
            strange = {
                one.partition: (positions[one.partition], begins[one])
                for one in partitions
                if not begins[one] <= positions[one.partition] <= ends[one]
            }
            if strange:
                log.warning("position is not on the topic, reading from its beginning", partitions=sorted(strange))
                await store.move_positions(db, topic, strange)
                positions = await store.positions(db, topic)
        for one in partitions:
            if one in consumer.assignment():
                consumer.seek(one, positions[one.partition])
                self._known[one] = positions[one.partition]

    async def _commit(self, records: Records, moves: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """Write what the records make and where to go on, both or neither."""
        try:
            async with intake.transaction(self._pool) as db:
                topic = self._settings.topic
                if not await store.move_positions(db, topic, {one.partition: move for one, move in moves.items()}):
                    raise PositionLostError
                events, letters = _decoded(records)
                taken = await intake.take(db, list(events), "topic")
                for event in taken.contradicting:
                    record = events[event]
                    letters.append(intake.contradiction(event, record.partition, record.offset, record.headers))
                if letters:
                    await store.insert_dead_letters(db, topic, letters)
        except PositionLostError:
            metrics.LOST_BATCHES.inc()
            log.info("batch dropped, another process has moved on", partitions=[one.partition for one in moves])
            self._known.clear()
            return
        except BaseException:
            self._known.clear()  # whether it was committed is unknown
            raise
        for letter in letters:
            log.error("dead letter", partition=letter.partition, offset=letter.offset, reason=letter.reason)
        for partition, (expected, position) in moves.items():
            if self._known.get(partition) == expected:
                self._known[partition] = position


async def _position(consumer: KafkaConsumer, partition: TopicPartition) -> int:
    """Return the client's position. Raises TimeoutError: of a topic that is gone it would wait for one for ever."""
    async with asyncio.timeout(POSITION_SECONDS):
        position: int = await consumer.position(partition)
    return position


def _decoded(records: Records) -> tuple[dict[Event, ConsumerRecord], list[DeadLetter]]:
    """Return the events, each with its record, and what could not be read."""
    events: dict[Event, ConsumerRecord] = {}
    letters = []
    for found in records.values():
        for record in found:
            try:
                events[decode(record.headers, record.value)] = record
            except Undecodable as error:
                order_id, sequence = identity(record.headers)
                letters.append(
                    DeadLetter(
                        record.partition, record.offset, record.headers, record.value, order_id, sequence, str(error)
                    )
                )
    return events, letters
