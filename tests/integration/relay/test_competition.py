"""Several replicas that die and pause publish every event once and in sequence."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
import pytest
from aiokafka.structs import ConsumerRecord

from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.relay.world import Event, World, expected, identity, order_in, write

WRITERS = 4
TRANSACTIONS_PER_WRITER = 60
KILLS = 5


class Replica:
    """The relay as a process, as it is deployed."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self._port = port

    @classmethod
    def start(cls, world: World, reaper: Reaper, batch_events: int = 20) -> "Replica":
        port = free_port()
        environment = {
            **os.environ,
            "RELAY_DATABASE_URL": world.url,
            "KAFKA_BOOTSTRAP_SERVERS": world.kafka,
            "RELAY_TOPIC": world.topic,
            "RELAY_PORT": str(port),
            "RELAY_LEASE_SECONDS": "1",
            "RELAY_BATCH_EVENTS": str(batch_events),
            "RELAY_LOG_LEVEL": "error",
        }
        process = subprocess.Popen([sys.executable, "-m", "services.relay"], env=environment)
        reaper.process(process, signal.SIGKILL)
        return cls(process, port)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, if it lives, and see it gone."""
        self._process.kill()
        self._process.wait()

    async def serves(self) -> bool:
        """Say whether it answers: from then on it heeds signals."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True

    async def end(self, how: signal.Signals) -> int:
        self._process.send_signal(how)
        return await asyncio.to_thread(self._process.wait, 20)


@contextmanager
def replicas(world: World, reaper: Reaper, batch_events: int = 20) -> Iterator[Callable[[], Replica]]:
    """Starts replicas; none of them outlives the test, to publish another's events to this one's topic."""
    started: list[Replica] = []

    def start() -> Replica:
        started.append(Replica.start(world, reaper, batch_events))
        return started[-1]

    try:
        yield start
    finally:
        for replica in started:
            replica.kill()


@asynccontextmanager
async def writing(database: Database, seed: int) -> AsyncIterator[list[Event]]:
    """Writers that commit out of order and roll back every tenth transaction; gives what was committed."""
    committed: list[Event] = []
    tasks = [asyncio.create_task(write_orders(database, random.Random(seed + i), committed)) for i in range(WRITERS)]
    yield committed
    await asyncio.gather(*tasks)


async def write_orders(database: Database, chance: random.Random, committed: list[Event]) -> None:
    connection = await asyncpg.connect(database.url)
    sequences: dict[int, int] = defaultdict(int)
    orders = [uuid7() for _ in range(6)]
    try:
        for _ in range(TRANSACTIONS_PER_WRITER):
            transaction = connection.transaction()
            await transaction.start()
            events = [Event(orders[index], sequences[index] + 1) for index in chance.sample(range(6), 3)]
            for event in events:
                await event.insert(connection)
                # Other writers take higher ids and commit before.
                await asyncio.sleep(chance.uniform(0, 0.02))
            await connection.execute("SELECT pg_notify('orders_outbox', '')")
            if chance.random() < 0.1:
                await transaction.rollback()
                continue
            await transaction.commit()
            committed += events
            for event in events:
                sequences[orders.index(event.order_id)] += 1
    finally:
        await connection.close()


def assert_in_sequence(world: World, records: list[ConsumerRecord], events: list[Event], *, once: bool = True) -> None:
    """Every event is there, each order's first occurrences count 1, 2, 3 …"""
    seen = [identity(record) for record in records]
    first = list(dict.fromkeys(seen))
    assert sorted(first) == sorted(expected(events))
    if once:
        assert first == seen, f"{len(seen) - len(first)} duplicates on {world.topic}"
    by_order: dict[str, list[int]] = defaultdict(list)
    for order_id, sequence, _ in first:
        by_order[order_id].append(sequence)
    for sequences in by_order.values():
        assert sequences == list(range(1, len(sequences) + 1))


async def test_replicas_share_the_shards_and_take_them_over_in_order(world: World) -> None:
    holders = "SELECT holder, count(*) FROM relay.shards WHERE holder IS NOT NULL GROUP BY holder ORDER BY holder"

    async def shared(*counts: tuple[str, int]) -> None:
        async def are_so() -> bool:
            return [tuple(row) for row in await world.connection.fetch(holders)] == list(counts)

        await eventually(are_so, 15, f"shards held as {counts}")

    async with world.relay(replica="a"):
        await shared(("a", 4))
        async with world.relay(replica="b"):
            await shared(("a", 2), ("b", 2))
        await shared(("a", 4))


async def test_replica_without_broker_leaves_its_shards_to_another(world: World) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    events = [Event(order_in(shard), 1) for shard in range(4)]
    async with world.relay(replica="cut off", kafka_bootstrap_servers=nowhere), world.relay(replica="healthy"):
        await world.until_held("healthy")
        await write(world.connection, events)
        await world.until_sent(4)
        assert await world.connection.fetchval("SELECT array_agg(replica) FROM relay.replicas") == ["healthy"]


async def test_killed_replicas_lose_and_repeat_nothing(real_world: World, migrated: Database, reaper: Reaper) -> None:
    seed = random.randrange(1_000_000)
    print("seed", seed)
    chance = random.Random(seed)
    with replicas(real_world, reaper) as start:
        living = [start(), start()]
        await real_world.until_held()
        async with writing(migrated, seed) as events:
            for _ in range(KILLS):
                victim = chance.randrange(2)
                await progress(real_world, chance.randint(1, 60))
                await living[victim].end(signal.SIGKILL)
                living[victim] = start()
        await real_world.until_sent(len(events), seconds=40)
        async with real_world.reader() as reader:
            assert_in_sequence(real_world, await reader.to_the_end(), events)
        for replica in living:
            await eventually(replica.serves, 30, "a replica that was started last")
        assert [await replica.end(signal.SIGTERM) for replica in living] == [0, 0]


async def progress(world: World, count: int, seconds: float = 20) -> None:
    """Wait until that many more events are SENT, or all there are for the moment."""
    goal = (await world.statuses()).get("SENT", 0) + count

    async def there() -> bool:
        statuses = await world.statuses()
        return statuses.get("SENT", 0) >= goal or statuses.get("PENDING", 0) == 0

    await eventually(there, seconds, f"{goal} events SENT")


async def test_replica_paused_past_its_lease_publishes_nothing_twice(
    real_world: World, migrated: Database, reaper: Reaper
) -> None:
    seed = random.randrange(1_000_000)
    print("seed", seed)
    with replicas(real_world, reaper) as start:
        both = [start(), start()]
        two = "SELECT count(DISTINCT holder) = 2 AND bool_and(holder IS NOT NULL) FROM relay.shards"
        await eventually(lambda: real_world.connection.fetchval(two), 30, "shards that both replicas share")
        async with writing(migrated, seed) as events:
            for replica in [*both, *both]:
                await progress(real_world, 10)
                before = await epochs(real_world)
                replica.pause()
                await until_epochs(real_world, before + 2)  # the other one has taken its two shards over
                replica.wake()
        await real_world.until_sent(len(events), seconds=40)
        async with real_world.reader() as reader:
            assert_in_sequence(real_world, await reader.to_the_end(), events)
        assert [await replica.end(signal.SIGTERM) for replica in both] == [0, 0]


async def epochs(world: World) -> int:
    return int(await world.connection.fetchval("SELECT sum(epoch) FROM relay.shards"))


async def until_epochs(world: World, goal: int, seconds: float = 20) -> None:
    async def there() -> bool:
        return await epochs(world) >= goal

    await eventually(there, seconds, "take-overs")


@pytest.mark.parametrize("transactions", [True, False])
async def test_replicas_that_start_and_stop_keep_each_order_in_sequence(
    world: World, migrated: Database, *, transactions: bool
) -> None:
    async with writing(migrated, 7) as events:
        for _ in range(3):
            first, second = (world.relay(transactions=transactions, batch_events=10) for _ in range(2))
            async with first, second:
                await progress(world, 30)
    async with world.relay(transactions=transactions):
        await world.until_sent(len(events))
    async with world.reader() as reader:
        once = transactions and world.real_broker
        assert_in_sequence(world, await reader.to_the_end(), events, once=once)


async def test_shard_taken_by_force_repeatedly_publishes_each_event_once(real_world: World, migrated: Database) -> None:
    async with real_world.relay(), writing(migrated, 11) as events:
        for _ in range(20):
            await progress(real_world, 5)
            await real_world.connection.execute("UPDATE relay.shards SET epoch = epoch + 1")
    async with real_world.relay():
        await real_world.until_sent(len(events))
    async with real_world.reader() as reader:
        assert_in_sequence(real_world, await reader.to_the_end(), events)


async def test_busy_shard_delays_no_other_shard(world: World) -> None:
    backlog = [Event(order_in(0), 1) for _ in range(300)]
    quick = Event(order_in(1), 1)
    await write(world.connection, [*backlog, quick])
    async with world.relay(batch_events=5):
        sent = "SELECT status = 'SENT' FROM orders.outbox WHERE event_id = $1"
        await eventually(lambda: world.connection.fetchval(sent, quick.event_id), 20, "the other shard's event")
        assert (await world.statuses())["PENDING"] > 0
        await world.until_sent(301)
