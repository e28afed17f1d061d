"""Two primaries at once, and a relay on each: every event of the new history is published once, and no other."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass

import asyncpg
import pytest

from services.relay import store
from services.relay.domain.events import Batch, OutboxEvent
from services.relay.domain.shards import Lease
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.publishing import takeover
from services.relay.settings import RelaySettings
from shared.postgres.connections import Connection
from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Event, Pipeline, expected, identity, order_in, write
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.two_primaries import TwoPrimaries
from tests.infrastructure.waiting import eventually

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(120)]
SECONDS = 30
PAUSED = "paused and woken"
HOWS = [PAUSED, "cut off"] if os.environ.get("POINTS_ALL") else [PAUSED]
SHARDS = range(4)
LATE, BESIDE, OPEN, UNHEARD = SHARDS
HOLDERS = "SELECT count(DISTINCT holder) FROM relay.shards WHERE lease_expires_at > now()"
LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%relay wakeup'"


@pytest.fixture
async def two(reaper: Reaper) -> AsyncIterator[TwoPrimaries]:
    two = await asyncio.to_thread(TwoPrimaries, reaper)
    yield two
    await asyncio.to_thread(two.stop)


@asynccontextmanager
async def pipeline(database: Database, kafka: str, topic: str) -> AsyncIterator[Pipeline]:
    """Return the path of an event from this database to the topic."""
    connection = await asyncpg.connect(database.url)
    try:
        yield Pipeline(database.as_role("relay_service"), kafka, topic, connection, real_broker=True)
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True)
class Publisher:
    """Relay A's hold on a shard, step by step."""

    shard: int
    connection: Connection
    lease: Lease
    producer: EventProducer

    @classmethod
    async def take(cls, settings: RelaySettings, shard: int, stack: AsyncExitStack) -> "Publisher":
        """Take a shard that was never published; the lease is over at once, by both primaries' clocks."""
        connection = await asyncpg.connect(settings.current_database_url())
        stack.push_async_callback(connection.close, timeout=1)
        producer = EventProducer(settings, settings.shard_name(shard))
        stack.push_async_callback(producer.drop)
        lease = await store.take_lease(connection, shard, "a", 0.0)
        assert lease is not None
        await producer.open()
        await takeover.begin(connection, lease, producer)
        return cls(shard, connection, lease, producer)

    async def claim(self) -> list[OutboxEvent]:
        """Claim batch 1."""
        limits = {"lease_seconds": 0.0, "events_max": 100, "bytes_max": 1_000_000}
        return await store.cycle(self.connection, self.lease, 0, in_transaction=True, **limits)  # type: ignore[arg-type]


async def commits_waiting(two: TwoPrimaries, count: int) -> bool:
    return await asyncio.to_thread(two.commits_waiting) >= count


async def test_batch_under_way_on_a_former_primary_is_published_once(two: TwoPrimaries, kafka_bootstrap: str) -> None:
    topic = f"orders.split-{secrets.token_hex(6)}"
    events = [Event(order_in(shard), 1) for shard in SHARDS for _ in range(3)]
    later = [Event(event.order_id, 2) for event in events]
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(pipeline(two.old, kafka_bootstrap, topic))
        broker = Broker(old.settings())
        await broker.ensure_topics(4)
        await broker.close()
        await write(old.connection, events)
        a = [await Publisher.take(old.settings(), shard, stack) for shard in SHARDS]
        batches = {shard: await a[shard].claim() for shard in (LATE, BESIDE, OPEN)}
        await a[OPEN].producer._producer.begin_transaction()
        await a[OPEN].producer._producer.send_and_wait(topic, key=b"left", value=b"open")
        await asyncio.to_thread(two.stop_acknowledging)
        unheard = asyncio.create_task(a[UNHEARD].claim())
        await eventually(lambda: commits_waiting(two, 1), SECONDS, "a claim that is not acknowledged")
        await asyncio.to_thread(two.until_replicated)
        await asyncio.to_thread(two.promote)
        await a[BESIDE].producer.publish(Batch(BESIDE, 1, batches[BESIDE]))
        mark = asyncio.create_task(takeover.mark(a[BESIDE].connection, old.settings(), a[BESIDE].lease, 1))
        new = await stack.enter_async_context(pipeline(two.new, kafka_bootstrap, topic))
        async with new.relay(), new.reader() as reader:
            await write(new.connection, later)
            await new.until_sent(len(events + later))
            with pytest.raises(BrokerFailed):
                await a[LATE].producer.publish(Batch(LATE, 1, batches[LATE]))
            with pytest.raises(BrokerFailed):
                await a[OPEN].producer.publish(Batch(OPEN, 1, batches[OPEN]))
            # A still believes that it holds all shards, and nobody has told it more.
            assert await old.connection.fetchval("SELECT bool_and(holder = 'a') FROM relay.shards")
            await eventually(lambda: commits_waiting(two, 2), SECONDS, "A's claim and its mark")
            await asyncio.to_thread(two.stop_former)
            for task in (unheard, mark):
                with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                    await task
            records = [identity(record) for record in await reader.to_the_end()]
        assert sorted(records) == sorted(expected(events + later))
        assert in_sequence(records)
        numbers = await new.connection.fetch("SELECT shard, batch_number FROM relay.shards")
        assert await new.positions() == {row["shard"]: row["batch_number"] for row in numbers}


async def test_shard_is_refused_after_a_wait_was_cancelled(two: TwoPrimaries, kafka_bootstrap: str) -> None:
    """Relays rely on this: nobody is told of a commit before the standby has it."""
    topic = f"orders.split-{secrets.token_hex(6)}"
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(pipeline(two.old, kafka_bootstrap, topic))
        broker = Broker(old.settings())
        await broker.ensure_topics(4)
        await broker.close()
        await write(old.connection, [Event(order_in(shard), 1) for shard in SHARDS])
        a = [await Publisher.take(old.settings(), shard, stack) for shard in SHARDS]
        await asyncio.to_thread(two.promote)
        claiming = asyncio.create_task(a[LATE].claim())
        await eventually(lambda: commits_waiting(two, 1), SECONDS, "a claim that is not acknowledged")
        await old.connection.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        await a[LATE].producer.publish(Batch(LATE, 1, await claiming))
        new = await stack.enter_async_context(pipeline(two.new, kafka_bootstrap, topic))
        async with new.relay() as relay:
            await new.until_sent(len(SHARDS) - 1)

            async def refused() -> list[int]:
                return [one.shard for one in relay.publishers() if one.failures.refused]

            assert await eventually(refused, SECONDS, "a refused shard") == [LATE]


@pytest.mark.parametrize("how", HOWS)
async def test_relays_on_two_primaries_share_the_shards_again(
    two: TwoPrimaries, how: str, kafka_bootstrap: str
) -> None:
    topic = f"orders.split-{secrets.token_hex(6)}"
    orders = [order_in(shard) for shard in SHARDS for _ in range(3)]
    before, beside, after = ([Event(order, sequence) for order in orders] for sequence in (1, 2, 3))
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        old = await enter(pipeline(two.old, kafka_bootstrap, topic))
        await enter(old.relay(replica="a", database_url=two.old_first.as_role("relay_service")))
        await old.until_held("a")
        await write(old.connection, before)
        await old.until_sent(len(before))
        pause = two.paused() if how == PAUSED else nullcontext()
        with pause:
            await asyncio.to_thread(two.promote)
            new = await enter(pipeline(two.new, kafka_bootstrap, topic))
            await enter(new.relay(replica="b", database_url=two.new_first.as_role("relay_service")))
            await new.until_held("b")
            await write(new.connection, beside)
            await new.until_sent(len(before + beside))
        assert await old.connection.fetchval("SELECT bool_and(holder = 'a') FROM relay.shards")
        await eventually(lambda: commits_waiting(two, 1), SECONDS, "what A does on the former primary")
        await asyncio.to_thread(two.stop_former)
        await eventually(lambda: count(new, HOLDERS, 2), SECONDS, "two replicas that share the shards")
        await eventually(lambda: count(new, LISTENING, 2), SECONDS, "two replicas that listen")
        await write(new.connection, after)
        await new.until_sent(len(before + beside + after))
        async with new.reader() as reader:
            records = [identity(record) for record in await reader.to_the_end()]
        assert sorted(records) == sorted(expected(before + beside + after))
        assert in_sequence(records)


async def count(pipeline: Pipeline, query: str, due: int) -> bool:
    return bool(await pipeline.connection.fetchval(query) == due)


def in_sequence(records: list[tuple[str, int, str]]) -> bool:
    """Return whether each order's events are in sequence."""
    of_order: dict[str, list[int]] = {}
    for order, sequence, _ in records:
        of_order.setdefault(order, []).append(sequence)
    return all(sequences == sorted(sequences) for sequences in of_order.values())
