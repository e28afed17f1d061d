"""Shards of one replica share a transaction; a take-over of any of them ends it and fences its producer."""

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
from shared.postgres.connections import Connection
from tests.infrastructure.pipeline import Event, Pipeline, assert_sent_once, expected, identity, order_in, write
from tests.infrastructure.waiting import eventually
from tests.integration.relay.test_parking import TOO_LARGE, narrow_topic, parked

SHARDS = (1, 2)
PREDECESSOR = "predecessor"
THEIR_GROUP = "the-predecessors-group"
SESSIONS = "FROM pg_stat_activity WHERE datname = current_database()"  # other relays may run on this server


@dataclass
class Predecessor:
    """A replica whose steps the test calls: it holds two shards, number 0 committed, and their group's producer."""

    connection: Connection
    publisher: EventProducer
    leases: list[Lease]

    async def claim(self) -> Mapping[int, list[OutboxEvent]]:
        """Claim the first batches of both."""
        held = dict.fromkeys(self.leases, 0)
        bounds: dict[str, Any] = {"lease_seconds": 0.1, "events_max": 100, "bytes_max": 1_000_000}
        return await store.cycle_together(self.connection, held, **bounds, lock_seconds=1)

    async def publish(self, claimed: Mapping[int, list[OutboxEvent]]) -> None:
        """Publish the claimed events, as batch 1 of each shard."""
        await self.publisher.publish(*(Batch(shard, 1, events) for shard, events in claimed.items()))


@asynccontextmanager
async def predecessor(pipeline: Pipeline) -> AsyncIterator[Predecessor]:
    """Yield such a replica, and drop its producer at the end."""
    settings = pipeline.settings(replica=PREDECESSOR)
    broker = Broker(settings)
    await broker.ensure_topics(4)
    await broker.close()
    connection = await asyncpg.connect(pipeline.url)
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
    """Write three events for each of the predecessor's shards."""
    return [Event(order_in(shard), 1) for shard in SHARDS for _ in range(3)]


async def noted(pipeline: Pipeline) -> set[str]:
    """Return the transactional ids in the shards' rows."""
    rows = await pipeline.connection.fetch("SELECT DISTINCT transactional_id FROM relay.shards")
    return {row["transactional_id"] for row in rows}


def committed() -> float:
    """Return how many transactions this process has committed."""
    (family,) = metrics.TRANSACTION_SECONDS.collect()
    return next(sample.value for sample in family.samples if sample.name.endswith("_count"))


async def test_events_of_all_shards_are_published_in_one_transaction(pipeline: Pipeline) -> None:
    events = [Event(order_in(shard), 1) for shard in range(4)]
    async with pipeline.relay(replica="one") as relay:
        await pipeline.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        before = committed()
        await write(pipeline.connection, events)
        await pipeline.until_sent(4)
        assert committed() - before == 1
        assert await noted(pipeline) == {relay._group.transactional_id}
    assert await pipeline.positions() == dict.fromkeys(range(4), 1)


async def all_idle(relay: Any) -> bool:
    return all(publisher.idle for publisher in relay.publishers())


async def has_read_the_end(relay: Any) -> bool:
    """Return whether the client knows that the group's connection is closed; the server closes it slightly earlier."""
    connection = relay._group._connection
    return connection is not None and connection.is_closed()


async def test_batches_of_a_group_that_were_committed_but_not_marked_are_not_sent_again(pipeline: Pipeline) -> None:
    events = events_of_both()
    await write(pipeline.connection, events)
    async with predecessor(pipeline) as before:
        await before.publish(await before.claim())
    assert await pipeline.statuses() == {"PENDING": 6}
    await assert_sent_once(pipeline, events)


async def test_batches_of_a_group_that_were_only_claimed_are_sent(pipeline: Pipeline) -> None:
    events = events_of_both()
    await write(pipeline.connection, events)
    async with predecessor(pipeline) as before:
        await before.claim()
    await assert_sent_once(pipeline, events)


async def test_a_groups_open_transaction_is_aborted_and_its_batches_are_sent_once(real_pipeline: Pipeline) -> None:
    events = events_of_both()
    await write(real_pipeline.connection, events)
    async with predecessor(real_pipeline) as before:
        await before.claim()
        await before.publisher._producer.begin_transaction()
        await before.publisher._producer.send_and_wait(real_pipeline.topic, key=b"left", value=b"open")
        await assert_sent_once(real_pipeline, events)


async def test_group_paused_past_one_shard_lease_commits_nothing(real_pipeline: Pipeline) -> None:
    events = events_of_both()
    await write(real_pipeline.connection, events)
    async with predecessor(real_pipeline) as before:
        claimed = await before.claim()
        async with real_pipeline.relay(), real_pipeline.reader() as reader:
            await real_pipeline.until_sent(6)
            with pytest.raises(BrokerFailed):
                await before.publish(claimed)
            assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(events))


async def test_bootstrap_fences_the_group_as_well(real_pipeline: Pipeline) -> None:
    events = events_of_both()
    await write(real_pipeline.connection, events)
    async with predecessor(real_pipeline) as before:
        claimed = await before.claim()
        assert await bootstrap(real_pipeline.settings()) == 0
        with pytest.raises(BrokerFailed):
            await before.publish(claimed)
        assert await positions.last_committed(real_pipeline.settings(), SHARDS[0]) == 0
    await assert_sent_once(real_pipeline, events)


async def test_shard_handed_over_after_marking_does_not_fail_its_old_group(real_pipeline: Pipeline) -> None:
    failed = failures("broker")
    events = [Event(order_in(number % 4), 1) for number in range(40)]
    async with real_pipeline.relay(replica="one"):
        await real_pipeline.until_held("one")
        await write(real_pipeline.connection, events[:20])
        async with real_pipeline.relay(replica="two"):
            shared = "SELECT count(DISTINCT holder) = 2 FROM relay.shards"
            await eventually(lambda: real_pipeline.connection.fetchval(shared), 20, "two holders")
            await write(real_pipeline.connection, events[20:])
            await real_pipeline.until_sent(40)
    async with real_pipeline.reader() as reader:
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(events))
    assert failures("broker") == failed


async def test_lost_shard_cancels_the_group_cycle_and_the_others_publish_alone(pipeline: Pipeline) -> None:
    await write(pipeline.connection, events_of_both())
    async with predecessor(pipeline) as before:
        await pipeline.connection.execute("UPDATE relay.shards SET epoch = epoch + 1 WHERE shard = $1", SHARDS[1])
        with pytest.raises(LeaseLost):
            await before.claim()
        rows = await pipeline.connection.fetch("SELECT batch_number, outbox_ids FROM relay.shards")
        assert {(row["batch_number"], len(row["outbox_ids"])) for row in rows} == {(0, 0)}
        bounds: dict[str, Any] = {"lease_seconds": 0.1, "events_max": 100, "bytes_max": 1_000_000}
        assert len(await store.cycle(before.connection, before.leases[0], 0, **bounds, in_transaction=True)) == 3


async def test_a_replica_that_loses_one_shard_publishes_the_others(pipeline: Pipeline) -> None:
    async with pipeline.relay(replica="one"):
        await pipeline.until_held("one")
        lost = "UPDATE relay.shards SET epoch = epoch + 1, holder = 'other', lease_expires_at = 'infinity'"
        await pipeline.connection.execute(f"{lost} WHERE shard = 3")
        await write(pipeline.connection, [Event(order_in(shard), 1) for shard in range(4)])
        await pipeline.until_sent(3)
        assert await pipeline.statuses() == {"SENT": 3, "PENDING": 1}


async def test_backlog_is_published_alone_and_later_batches_in_a_group(pipeline: Pipeline) -> None:
    backlog = [Event(order_in(0), 1) for _ in range(2 * BACKLOG_EVENTS)]
    await write(pipeline.connection, backlog)
    async with pipeline.relay(batch_events=BACKLOG_EVENTS) as relay:
        await pipeline.until_sent(len(backlog))
        query = "SELECT transactional_id FROM relay.shards WHERE shard = 0"
        assert await pipeline.connection.fetchval(query) == pipeline.settings().shard_name(0)
        await write(pipeline.connection, [Event(order_in(0), 1)])
        await pipeline.until_sent(len(backlog) + 1)
        await write(pipeline.connection, [Event(order_in(0), 1)])
        await pipeline.until_sent(len(backlog) + 2)
        assert await pipeline.connection.fetchval(query) == relay._group.transactional_id


async def test_refused_event_fails_the_other_shards_of_its_group_once(real_pipeline: Pipeline) -> None:
    poison = Event(order_in(0), 1, payload=TOO_LARGE)
    others = [Event(order_in(shard), 1) for shard in range(1, 4)]
    async with narrow_topic(real_pipeline), real_pipeline.relay() as relay, real_pipeline.reader() as reader:
        await real_pipeline.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        refusals = [metrics.FAILURES.labels(shard, "refused-events") for shard in range(1, 4)]
        before = [counter._value.get() for counter in refusals]
        await write(real_pipeline.connection, [poison, *others])
        await real_pipeline.until_sent(3)
        await eventually(lambda: parked(real_pipeline), 20, "a parked event")
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(others))
        assert [counter._value.get() - was for counter, was in zip(refusals, before, strict=True)] == [1, 1, 1]


@asynccontextmanager
async def locked(pipeline: Pipeline, shard: int) -> AsyncIterator[None]:
    """Keep a shard's row locked, like an operator's forgotten transaction."""
    operator = await asyncpg.connect(pipeline.url)
    try:
        async with operator.transaction():
            await operator.execute("SELECT FROM relay.shards WHERE shard = $1 FOR UPDATE", shard)
            yield
    finally:
        await operator.close()


async def test_shard_whose_row_is_locked_delays_no_other(pipeline: Pipeline) -> None:
    events = [Event(order_in(shard), 1) for shard in range(4)]
    async with pipeline.relay() as relay:
        await pipeline.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        async with locked(pipeline, 1):
            await write(pipeline.connection, events)
            await pipeline.until_sent(3, seconds=5)
            assert await pipeline.statuses() == {"SENT": 3, "PENDING": 1}
        await pipeline.until_sent(4)
    async with pipeline.reader() as reader:
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(events))


async def test_idle_group_connection_that_is_cut_fails_no_shard(pipeline: Pipeline) -> None:
    async with pipeline.relay(lease_seconds=60, poll_interval_seconds=5) as relay:
        await pipeline.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        failed = failures("database")
        await cut(pipeline, "relay group commit")
        await eventually(lambda: has_read_the_end(relay), 5, "a connection known to be closed")
        await write(pipeline.connection, [Event(order_in(shard), 1) for shard in range(4)])
        await pipeline.until_sent(4)
        assert failures("database") == failed


async def test_shard_connection_cut_while_in_a_group_is_opened_again(pipeline: Pipeline) -> None:
    async with pipeline.relay() as relay:
        await pipeline.until_held()
        await eventually(lambda: all_idle(relay), 10, "shards that wait")
        await cut(pipeline, "relay shard 2")
        there = f"SELECT count(*) {SESSIONS} AND application_name = 'relay shard 2'"
        await eventually(lambda: pipeline.connection.fetchval(there), 5, "a connection of the shard")
        await eventually(lambda: all_idle(relay), 10, "shards that wait again")  # a stop waits for no take-over
    assert await pipeline.connection.fetchval("SELECT count(holder) FROM relay.shards") == 0


def failures(cause: str) -> float:
    """Return how often shards were interrupted for this cause."""
    return sum(float(metrics.FAILURES.labels(shard, cause)._value.get()) for shard in range(4))


async def cut(pipeline: Pipeline, application: str) -> None:
    """End a connection from the server's side, and return when it has ended."""
    there = f"SELECT count(*) = 0 {SESSIONS} AND application_name = $1"
    terminate = f"SELECT pg_terminate_backend(pid) {SESSIONS} AND application_name = $1"
    await pipeline.connection.execute(terminate, application)
    await eventually(lambda: pipeline.connection.fetchval(there, application), 5, "the end of a connection")


@pytest.fixture
def no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka refuses every group's transactional id."""
    opened = EventProducer.open

    async def refused(publisher: EventProducer) -> None:
        if "relay-" in str(publisher._producer._txn_manager.transactional_id):
            raise BrokerFailed("TransactionalIdAuthorizationFailed")
        await opened(publisher)

    monkeypatch.setattr(EventProducer, "open", refused)


@pytest.mark.usefixtures("no_group")
async def test_group_that_fails_to_open_after_a_backlog_leaves_no_open_batch(
    pipeline: Pipeline,
) -> None:
    backlog = [Event(order_in(0), 1) for _ in range(BACKLOG_EVENTS * 3 // 2)]
    await write(pipeline.connection, backlog)
    async with pipeline.relay(batch_events=BACKLOG_EVENTS):
        await pipeline.until_sent(len(backlog))
        for count in (1, 2):
            await write(pipeline.connection, [Event(order_in(0), 1)])
            await pipeline.until_sent(len(backlog) + count)


@pytest.mark.usefixtures("no_group")
async def test_group_that_always_fails_does_not_delay_every_second_batch(pipeline: Pipeline) -> None:
    failed = failures("broker")
    async with pipeline.relay() as relay:
        await pipeline.until_held()
        for count in range(1, 11):
            await eventually(lambda: all_idle(relay), 10, "shards that wait")
            await write(pipeline.connection, [Event(order_in(0), 1)])
            await pipeline.until_sent(count)
    assert failures("broker") - failed <= 8  # each shard's first try and a second one
