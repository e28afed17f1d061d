"""Relays and the broker are killed and paused, while writers commit out of order and roll back.

This is a short run; `make relay-faults` is the long one. A seed repeats the run's choices.
"""

import asyncio
import os
import random
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import asyncpg
import pytest

from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.infrastructure.outbox_writers import assert_in_sequence
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.pipeline import Event, Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.relay_processes import Replica, epochs, replicas, until_epochs
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import eventually

EVENTS = int(os.environ.get("RELAY_FAULTS_EVENTS") or 3000)
STRIKES = int(os.environ.get("RELAY_FAULTS_STRIKES") or 5)
WRITERS = 16
ORDERS_EACH = 40
EVENTS_EACH = 10  # per transaction: half before and half after a pause in which others commit
ROLLBACKS = 0.1
REPLICAS = 2
BATCH_EVENTS = 100  # few compared with the backlog after a fault, so the next fault happens during the backlog
BROKER_KILLS = 0.2  # of all kills
PAUSES = 0.2  # beside the kills
INSERT = """
    INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload)
    SELECT event_id, order_id, sequence, 'order.paid.v1', '{"status":"PAID"}'
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS event (event_id, order_id, sequence)
"""


@pytest.fixture
def broker(reaper: Reaper) -> Iterator[OwnBroker]:
    """A broker that may be killed."""
    broker = OwnBroker(reaper)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
async def pipeline(database: Database, broker: OwnBroker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pipeline]:
    """An outbox, and a topic of that broker."""
    migrate_service("order", database)
    url = migrate_service("relay", database)
    monkeypatch.setenv("RELAY_KAFKA_TIMEOUT_SECONDS", "5")
    connection = await asyncpg.connect(database.url)
    try:
        yield Pipeline(url, broker.address, f"orders.faults-{secrets.token_hex(4)}", connection, real_broker=True)
    finally:
        await connection.close()


@dataclass
class Writers:
    """Write until there are enough events and every fault has struck."""

    url: str
    chance: random.Random
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    committed: list[Event] = field(default_factory=list)
    rolled_back: int = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._write(random.Random(self.chance.random())) for _ in range(WRITERS)))

    async def _write(self, chance: random.Random) -> None:
        connection = await asyncpg.connect(self.url)
        sequences = {uuid7(): 0 for _ in range(ORDERS_EACH)}
        try:
            while len(self.committed) < EVENTS or not self.struck.is_set():
                transaction = connection.transaction()
                await transaction.start()
                events = [Event(order, sequences[order] + 1) for order in chance.sample(list(sequences), EVENTS_EACH)]
                for half in (events[: EVENTS_EACH // 2], events[EVENTS_EACH // 2 :]):
                    await asyncio.sleep(chance.uniform(0, 0.3))  # others take higher ids, and commit before
                    columns = zip(*((event.event_id, event.order_id, event.sequence) for event in half), strict=True)
                    await connection.execute(INSERT, *map(list, columns))
                await connection.execute("SELECT pg_notify('orders_outbox', '')")
                if chance.random() < ROLLBACKS:
                    await transaction.rollback()
                    self.rolled_back += 1
                    continue
                await transaction.commit()
                self.committed += events
                sequences |= {event.order_id: event.sequence for event in events}
        finally:
            await connection.close()


@dataclass
class Faults:
    """Kills and pauses, one after the other, each while events are on their way."""

    pipeline: Pipeline
    broker: OwnBroker
    chance: random.Random
    start: Callable[[], Replica]
    replicas: list[Replica]
    hits: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        for number in range(STRIKES):
            await self._batches(self.chance.randint(1, 20))
            # A short run also has one of each kind.
            if self.chance.random() < BROKER_KILLS or (number == STRIKES - 1 and not self.hits["broker killed"]):
                await self._kill_broker()
            else:
                await self._kill_relay()
            if self.chance.random() < PAUSES or (number == STRIKES - 1 and not self.hits["relay paused"]):
                await self._batches(1)
                await self._pause_relay()

    async def _batches(self, count: int) -> None:
        """Wait until `count` more batches are claimed."""
        query = "SELECT sum(batch_number) FROM relay.shards"
        goal = await self.pipeline.connection.fetchval(query) + count

        async def there() -> bool:
            return bool(await self.pipeline.connection.fetchval(query) >= goal)

        await eventually(there, 60, f"{count} further batches")

    async def _kill_relay(self) -> None:
        victim = self.chance.randrange(REPLICAS)
        await self.replicas[victim].end(signal.SIGKILL)
        self.replicas[victim] = self.start()
        self.hits["relay killed"] += 1

    async def _kill_broker(self) -> None:
        self.broker.kill()
        await asyncio.to_thread(self.broker.start)
        self.hits["broker killed"] += 1

    async def _pause_relay(self) -> None:
        """Pause a replica past its lease, so that the other one has its shards when it resumes."""
        query = "SELECT count(DISTINCT holder) = $1 FROM relay.shards WHERE lease_expires_at > now()"
        await eventually(lambda: self.pipeline.connection.fetchval(query, REPLICAS), 60, "shards held by each replica")
        victim, before = self.chance.choice(self.replicas), await epochs(self.pipeline)
        victim.pause()
        try:
            await until_epochs(self.pipeline, before + 1, seconds=60)
        finally:
            victim.wake()
        self.hits["relay paused"] += 1


@pytest.mark.timeout(120 + 40 * STRIKES)
async def test_each_committed_event_is_read_once_in_sequence_despite_kills(
    pipeline: Pipeline, database: Database, broker: OwnBroker, reaper: Reaper
) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(1_000_000))
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    with replicas(pipeline, reaper, BATCH_EVENTS) as start:
        running = [start() for _ in range(REPLICAS)]
        await pipeline.until_held(seconds=60)
        writers, faults = Writers(database.url, chance), Faults(pipeline, broker, chance, start, running)
        writing = asyncio.create_task(writers.run())
        try:
            await faults.run()
        finally:
            writers.struck.set()
            await writing
        await pipeline.until_sent(len(writers.committed), seconds=60 + EVENTS / 1000)
        for replica in running:  # one may have just been started in place of a killed one
            await eventually(replica.serves, 30, "a relay that heeds signals")
        assert [await replica.end(signal.SIGTERM) for replica in running] == [0] * REPLICAS
    events = writers.committed
    async with pipeline.reader() as reader:
        committed = await reader.to_the_end()
    assert_in_sequence(pipeline, committed, events)
    async with pipeline.reader(isolation_level="read_uncommitted") as reader:
        everything = await reader.to_the_end()
    assert_in_sequence(pipeline, everything, events, once=False)
    assert await pipeline.statuses() == {"SENT": len(events)}
    assert min(faults.hits.values()) > 0
    assert len(faults.hits) == 3
    assert writers.rolled_back > 0
    print(f"{len(events):,} events by {WRITERS} writers; {writers.rolled_back:,} transactions rolled back")
    print(", ".join(f"{what} {count} times" for what, count in sorted(faults.hits.items())))
    print(f"read_committed: {len(committed):,} records; all: {len(everything):,}")
