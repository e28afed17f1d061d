"""Shards of one replica share a transaction; a take-over of any of them settles it and fences its producer."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from services.relay import metrics, store
from services.relay.domain.batching import BACKLOG_EVENTS
from services.relay.domain.events import Batch, OutboxEvent
from services.relay.domain.shards import Lease, LeaseLost
from services.relay.kafka import positions
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.publishing.bootstrap import bootstrap
from shared.postgres import Connection
from tests.infrastructure.waiting import eventually
from tests.integration.relay.test_parking import TOO_LARGE, narrow_topic, parked
from tests.integration.relay.world import Event, World, assert_sent_once, expected, identity, order_in, write

SHARDS = (1, 2)
PREDECESSOR = "predecessor"
THEIR_GROUP = "the-predecessors-group"


@dataclass
class Predecessor:
    """A replica that is led by hand: two shards held, number 0 committed for both, their group's producer open."""

    connection: Connection
    publisher: EventProducer
    leases: list[Lease]

    async def claim(self) -> Mapping[int, list[OutboxEvent]]:
        """Claim the first batches of both."""
        held = dict.fromkeys(self.leases, 0)
        bounds: dict[str, Any] = {"lease_seconds": 0.1, "events_max": 100, "bytes_max": 1_000_000}
        return await store.cycle_together(self.connection, held, **bounds, lock_seconds=1)

    async def publish(self, claimed: Mapping[int, list[OutboxEvent]]) -> None:
        """Bring out what was claimed, as batch 1 of each."""
        await self.publisher.publish(*(Batch(shard, 1, events) for shard, events in claimed.items()))


@asynccontextmanager
async def predecessor(world: World) -> AsyncIterator[Predecessor]:
    """Lead one, and drop its producer at the end."""
    settings = world.settings(replica=PREDECESSOR)
    broker = Broker(settings, 4)
    await broker.ensure_topics()
    await broker.close()
    connection = await asyncpg.connect(world.url)
    publisher = EventProducer(settings, THEIR_GROUP)
    try:
        await publisher.open()
        await publisher.publish(*(Batch(shard, 0, []) for shard in SHARDS))
        leases = []
        for shard in SHARDS:
            lease = await store.take_lease(connection, shard, PREDECESSOR, 0.1)
            assert lease is not None
            await store.declare(connection, lease)
            await store.note_transactional_id(connection, lease, THEIR_GROUP)
            leases.append(lease)
        yield Predecessor(connection, publisher, leases)
    finally:
        await publisher.drop()
        await connection.close()


def events_of_both() -> list[Event]:
    """Three events for each of the predecessor's shards."""
    return [Event(order_in(shard), 1) for shard in SHARDS for _ in range(3)]


async def noted(world: World) -> set[str]:
    """What the shards say that their batches go out with."""
    rows = await world.connection.fetch("SELECT DISTINCT transactional_id FROM relay.shards")
    return {row["transactional_id"] for row in rows}


def committed() -> float:
    """How many transactions this process has committed."""
    (family,) = metrics.TRANSACTION_SECONDS.collect()
    return next(sample.value for sample in family.samples if sample.name.endswith("_count"))


async def test_events_of_all_shards_are_published_in_one_transaction(world: World) -> None:
    events = [Event(order_in(shard), 1) for shard in range(4)]
    async with world.relay(replica="one") as relay:
        await world.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        before = committed()
        await write(world.connection, events)
        await world.until_sent(4)
        assert committed() - before == 1
        assert await noted(world) == {relay._group.transactional_id}
    assert await world.positions() == dict.fromkeys(range(4), 1)


async def all_idle(relay: Any) -> bool:
    return all(publisher.idle for publisher in relay.publishers())


async def has_read_the_end(relay: Any) -> bool:
    """Whether the group's connection is known to be closed: the server's side is gone a moment before."""
    connection = relay._group._connection
    return connection is not None and connection.is_closed()


async def test_batches_of_a_group_that_were_committed_but_not_marked_are_not_sent_again(world: World) -> None:
    events = events_of_both()
    await write(world.connection, events)
    async with predecessor(world) as before:
        await before.publish(await before.claim())
    assert await world.statuses() == {"PENDING": 6}
    await assert_sent_once(world, events)


async def test_batches_of_a_group_that_were_only_claimed_are_sent(world: World) -> None:
    events = events_of_both()
    await write(world.connection, events)
    async with predecessor(world) as before:
        await before.claim()
    await assert_sent_once(world, events)


async def test_a_groups_open_transaction_is_aborted_and_its_batches_are_sent_once(real_world: World) -> None:
    events = events_of_both()
    await write(real_world.connection, events)
    async with predecessor(real_world) as before:
        await before.claim()
        await before.publisher._producer.begin_transaction()
        await before.publisher._producer.send_and_wait(real_world.topic, key=b"left", value=b"open")
        await assert_sent_once(real_world, events)


async def test_group_paused_past_one_shard_lease_commits_nothing(real_world: World) -> None:
    events = events_of_both()
    await write(real_world.connection, events)
    async with predecessor(real_world) as before:
        claimed = await before.claim()
        async with real_world.relay(), real_world.reader() as reader:
            await real_world.until_sent(6)
            with pytest.raises(BrokerFailed):
                await before.publish(claimed)
            assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(events))


async def test_bootstrap_fences_the_group_as_well(real_world: World) -> None:
    events = events_of_both()
    await write(real_world.connection, events)
    async with predecessor(real_world) as before:
        claimed = await before.claim()
        assert await bootstrap(real_world.settings()) == 0
        with pytest.raises(BrokerFailed):
            await before.publish(claimed)
        assert await positions.last_committed(real_world.settings(), SHARDS[0]) == 0
    await assert_sent_once(real_world, events)


async def test_shard_handed_over_after_marking_does_not_fail_its_old_group(real_world: World) -> None:
    failed = failures("broker")
    events = [Event(order_in(number % 4), 1) for number in range(40)]
    async with real_world.relay(replica="one"):
        await real_world.until_held("one")
        await write(real_world.connection, events[:20])
        async with real_world.relay(replica="two"):
            shared = "SELECT count(DISTINCT holder) = 2 FROM relay.shards"
            await eventually(lambda: real_world.connection.fetchval(shared), 20, "two holders")
            await write(real_world.connection, events[20:])
            await real_world.until_sent(40)
    async with real_world.reader() as reader:
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(events))
    assert failures("broker") == failed


async def test_lost_shard_cancels_the_group_cycle_and_the_others_publish_alone(world: World) -> None:
    await write(world.connection, events_of_both())
    async with predecessor(world) as before:
        await world.connection.execute("UPDATE relay.shards SET epoch = epoch + 1 WHERE shard = $1", SHARDS[1])
        with pytest.raises(LeaseLost):
            await before.claim()
        rows = await world.connection.fetch("SELECT batch_number, outbox_ids FROM relay.shards")
        assert {(row["batch_number"], len(row["outbox_ids"])) for row in rows} == {(0, 0)}
        bounds: dict[str, Any] = {"lease_seconds": 0.1, "events_max": 100, "bytes_max": 1_000_000}
        assert len(await store.cycle(before.connection, before.leases[0], 0, **bounds, in_transaction=True)) == 3


async def test_a_replica_that_loses_one_shard_publishes_the_others(world: World) -> None:
    async with world.relay(replica="one"):
        await world.until_held("one")
        lost = "UPDATE relay.shards SET epoch = epoch + 1, holder = 'other', lease_expires_at = 'infinity'"
        await world.connection.execute(f"{lost} WHERE shard = 3")
        await write(world.connection, [Event(order_in(shard), 1) for shard in range(4)])
        await world.until_sent(3)
        assert await world.statuses() == {"SENT": 3, "PENDING": 1}


async def test_backlog_is_published_alone_and_later_batches_in_a_group(world: World) -> None:
    backlog = [Event(order_in(0), 1) for _ in range(2 * BACKLOG_EVENTS)]
    await write(world.connection, backlog)
    async with world.relay(batch_events=BACKLOG_EVENTS) as relay:
        await world.until_sent(len(backlog))
        query = "SELECT transactional_id FROM relay.shards WHERE shard = 0"
        assert await world.connection.fetchval(query) == world.settings().shard_name(0)
        await write(world.connection, [Event(order_in(0), 1)])
        await world.until_sent(len(backlog) + 1)
        await write(world.connection, [Event(order_in(0), 1)])
        await world.until_sent(len(backlog) + 2)
        assert await world.connection.fetchval(query) == relay._group.transactional_id


async def test_refused_event_fails_the_other_shards_of_its_group_once(real_world: World) -> None:
    poison = Event(order_in(0), 1, payload=TOO_LARGE)
    others = [Event(order_in(shard), 1) for shard in range(1, 4)]
    async with narrow_topic(real_world), real_world.relay() as relay, real_world.reader() as reader:
        await real_world.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        refusals = [metrics.FAILURES.labels(shard, "refused-events") for shard in range(1, 4)]
        before = [counter._value.get() for counter in refusals]
        await write(real_world.connection, [poison, *others])
        await real_world.until_sent(3)
        await eventually(lambda: parked(real_world), 20, "a parked event")
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(others))
        assert [counter._value.get() - was for counter, was in zip(refusals, before, strict=True)] == [1, 1, 1]


@asynccontextmanager
async def locked(world: World, shard: int) -> AsyncIterator[None]:
    """Keep a shard's row locked, as an operator does who forgets a transaction."""
    operator = await asyncpg.connect(world.url)
    try:
        async with operator.transaction():
            await operator.execute("SELECT FROM relay.shards WHERE shard = $1 FOR UPDATE", shard)
            yield
    finally:
        await operator.close()


async def test_shard_whose_row_is_locked_delays_no_other(world: World) -> None:
    events = [Event(order_in(shard), 1) for shard in range(4)]
    async with world.relay() as relay:
        await world.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        async with locked(world, 1):
            await write(world.connection, events)
            await world.until_sent(3, seconds=5)
            assert await world.statuses() == {"SENT": 3, "PENDING": 1}
        await world.until_sent(4)
    async with world.reader() as reader:
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(events))


async def test_idle_group_connection_that_is_cut_fails_no_shard(world: World) -> None:
    async with world.relay(lease_seconds=60, poll_interval_seconds=5) as relay:
        await world.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        failed = failures("database")
        await cut(world, "relay group commit")
        await eventually(lambda: has_read_the_end(relay), 5, "a connection known to be closed")
        await write(world.connection, [Event(order_in(shard), 1) for shard in range(4)])
        await world.until_sent(4)
        assert failures("database") == failed


async def test_shard_connection_cut_while_in_a_group_is_opened_again(world: World) -> None:
    async with world.relay() as relay:
        await world.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        await cut(world, "relay shard 2")
        there = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'relay shard 2'"
        await eventually(lambda: world.connection.fetchval(there), 5, "a connection of the shard")
        await eventually(lambda: all_idle(relay), 10, "shards that wait again")  # a stop waits for no take-over
    assert await world.connection.fetchval("SELECT count(holder) FROM relay.shards") == 0


def failures(cause: str) -> float:
    """How often shards were interrupted for that cause."""
    return sum(float(metrics.FAILURES.labels(shard, cause)._value.get()) for shard in range(4))


async def cut(world: World, application: str) -> None:
    """End a connection from the server's side, and return when it is gone."""
    there = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1"
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
    await world.connection.execute(terminate, application)
    await eventually(lambda: world.connection.fetchval(there, application), 5, "the end of a connection")


@pytest.fixture
def no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka lets nobody have a group's transactional id."""
    opened = EventProducer.open

    async def refused(publisher: EventProducer) -> None:
        if "relay-" in str(publisher._producer._txn_manager.transactional_id):
            raise BrokerFailed("TransactionalIdAuthorizationFailed")
        await opened(publisher)

    monkeypatch.setattr(EventProducer, "open", refused)


@pytest.mark.usefixtures("no_group")
async def test_backlog_before_a_group_that_fails_to_open_leaves_nothing_unsettled(
    world: World,
) -> None:
    backlog = [Event(order_in(0), 1) for _ in range(BACKLOG_EVENTS * 3 // 2)]
    await write(world.connection, backlog)
    async with world.relay(batch_events=BACKLOG_EVENTS):
        await world.until_sent(len(backlog))
        for count in (1, 2):
            await write(world.connection, [Event(order_in(0), 1)])
            await world.until_sent(len(backlog) + count)


@pytest.mark.usefixtures("no_group")
async def test_group_that_always_fails_does_not_delay_every_second_batch(world: World) -> None:
    failed = failures("broker")
    async with world.relay() as relay:
        await world.until_held()
        for count in range(1, 11):
            await eventually(lambda: all_idle(relay), 10, "shards that wait")
            await write(world.connection, [Event(order_in(0), 1)])
            await world.until_sent(count)
    assert failures("broker") - failed <= 8  # each shard's first try and a second one
