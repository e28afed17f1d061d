"""A take-over finds the batch that the previous relay had in flight, and neither loses nor repeats it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from services.relay import api, store
from services.relay.domain.events import Batch, OutboxEvent
from services.relay.domain.shards import Lease, LeaseLost
from services.relay.kafka import positions
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.publishing import takeover
from services.relay.publishing.bootstrap import bootstrap
from services.relay.publishing.shard_publisher import ShardPublisher
from shared.postgres.connections import Connection, Session
from tests.infrastructure.pipeline import Event, Pipeline, assert_sent_once, expected, identity, order_in, write
from tests.infrastructure.waiting import eventually

SHARD = 1


@asynccontextmanager
async def predecessor(pipeline: Pipeline) -> AsyncIterator[tuple[Connection, Lease, EventProducer]]:
    """A relay whose steps the test calls: shard 1 taken over, number 0 committed, its producer open."""
    settings = pipeline.settings()
    broker = Broker(settings)
    await broker.ensure_topics(4)
    await broker.close()
    connection = await asyncpg.connect(pipeline.url)
    producer = EventProducer(settings, settings.shard_name(SHARD))
    try:
        lease = await take(connection, "predecessor")
        await producer.open()
        await producer.publish(Batch(SHARD, 0, []))
        await store.declare(connection, lease)
        yield connection, lease, producer
    finally:
        await producer.drop()
        await connection.close()


async def take(connection: Connection, replica: str, *, lease_seconds: float = 0.1) -> Lease:
    """Take shard 1 over by force."""
    lease = await store.take_lease(connection, SHARD, replica, lease_seconds, by_force=True)
    assert lease is not None
    return lease


async def claim(connection: Connection, lease: Lease, number: int, **changes: Any) -> list[OutboxEvent]:
    """Call a cycle of shard 1."""
    values: dict[str, Any] = {"lease_seconds": 0.1, "events_max": 100, "bytes_max": 1_000_000, "in_transaction": True}
    return await store.cycle(connection, lease, number, **(values | changes))


async def test_a_batch_that_was_committed_but_not_marked_is_not_sent_again(pipeline: Pipeline) -> None:
    events = [Event(order_in(SHARD), 1) for _ in range(3)]
    await write(pipeline.connection, events)
    async with predecessor(pipeline) as (connection, lease, producer):
        await producer.publish(Batch(SHARD, 1, await claim(connection, lease, 0)))
    assert await pipeline.statuses() == {"PENDING": 3}
    later = Event(order_in(SHARD), 1)
    async with pipeline.relay(), pipeline.reader() as reader:
        await pipeline.until_sent(3)
        await write(pipeline.connection, [later])
        await pipeline.until_sent(4)
        records = await reader.to_the_end()
    assert sorted(map(identity, records)) == sorted(expected([*events, later]))


async def test_a_batch_that_was_claimed_but_not_committed_is_sent(pipeline: Pipeline) -> None:
    events = [Event(order_in(SHARD), 1) for _ in range(3)]
    await write(pipeline.connection, events)
    async with predecessor(pipeline) as (connection, lease, _):
        assert len(await claim(connection, lease, 0)) == 3
    await assert_sent_once(pipeline, events)


async def test_interrupted_first_take_over_is_completed_by_the_next(pipeline: Pipeline) -> None:
    async with predecessor(pipeline):
        await pipeline.connection.execute("UPDATE relay.shards SET declared = false")
    async with pipeline.relay():
        await pipeline.until_held()


async def test_a_transaction_left_open_is_aborted_and_its_batch_sent_once(real_pipeline: Pipeline) -> None:
    events = [Event(order_in(SHARD), 1) for _ in range(3)]
    await write(real_pipeline.connection, events)
    async with predecessor(real_pipeline) as (connection, lease, producer):
        await claim(connection, lease, 0)
        await producer._producer.begin_transaction()
        await producer._producer.send_and_wait(real_pipeline.topic, key=b"left", value=b"open")
        await assert_sent_once(real_pipeline, events)


@pytest.mark.parametrize("number", [2, 7])
async def test_other_number_refuses_the_shard_until_bootstrap(pipeline: Pipeline, number: int) -> None:
    event, other = Event(order_in(SHARD), 1), Event(order_in(2), 1)
    async with predecessor(pipeline):
        pass
    await pipeline.connection.execute("UPDATE relay.shards SET batch_number = $1 WHERE shard = $2", number, SHARD)
    async with pipeline.relay() as relay:
        await write(pipeline.connection, [event, other])
        await eventually(lambda: refused(relay.publishers), 10, "a refused shard")
        await pipeline.until_sent(1)  # the other shards continue
        assert await pipeline.statuses() == {"PENDING": 1, "SENT": 1}
        check = api.checks(Session(pipeline.settings(), "relay readiness"), relay.broker, relay.publishers)["shards"]
        with pytest.raises(api.NotPublishing, match=f"shard {SHARD}"):
            await check()

        assert await bootstrap(pipeline.settings()) == 0
        await pipeline.until_sent(2)
        await check()


async def test_paused_and_overtaken_take_over_loses_its_lease_without_refusal(pipeline: Pipeline) -> None:
    async with predecessor(pipeline) as (connection, old, producer):
        await take(connection, "successor")
        await producer.publish(Batch(SHARD, 1, []))
        await producer.publish(Batch(SHARD, 2, []))
        with pytest.raises(LeaseLost):
            await takeover.reconcile_shard(connection, pipeline.settings(), old, producer)


async def refused(publishers: Callable[[], Sequence[ShardPublisher]]) -> bool:
    return any(publisher.failures.refused for publisher in publishers() if publisher.shard == SHARD)


async def test_kafka_without_positions_refuses_the_shard_until_bootstrap(pipeline: Pipeline) -> None:
    event = Event(order_in(SHARD), 1)
    async with predecessor(pipeline):
        pass
    emptied = f"{pipeline.topic}-after"
    async with pipeline.relay(topic=emptied) as relay:
        await write(pipeline.connection, [event])
        await eventually(lambda: refused(relay.publishers), 10, "a refused shard")
        assert await bootstrap(pipeline.settings(topic=emptied)) == 0
        async with pipeline.reader(emptied) as reader:
            assert [identity(record) for record in await reader.until(1)] == expected([event])


async def test_bootstrap_of_a_matching_kafka_changes_nothing(pipeline: Pipeline) -> None:
    async with pipeline.relay():
        await pipeline.until_held()
        await write(pipeline.connection, [Event(order_in(SHARD), 1)])
        await pipeline.until_sent(1)
    assert await bootstrap(pipeline.settings()) == 0
    assert await pipeline.connection.fetchval("SELECT batch_number FROM relay.shards WHERE shard = $1", SHARD) == 1
    assert (await pipeline.positions())[SHARD] == 1


async def test_a_cycle_under_an_older_epoch_does_nothing(pipeline: Pipeline) -> None:
    await write(pipeline.connection, [Event(order_in(SHARD), 1)])
    async with predecessor(pipeline) as (connection, old, _):
        assert len(await claim(connection, old, 0)) == 1
        new = await take(connection, "successor")
        with pytest.raises(LeaseLost):
            await claim(connection, old, 1)
        with pytest.raises(LeaseLost):
            await store.unclaim(connection, old)
        assert await store.park(connection, old, 1, "late") == 0
        await store.release_lease(connection, old)
    assert (new.number, new.claimed) == (1, 1)
    assert await pipeline.statuses() == {"PENDING": 1}
    assert await pipeline.connection.fetchval("SELECT holder FROM relay.shards WHERE shard = $1", SHARD) == "successor"


async def test_producer_of_an_older_epoch_is_fenced(real_pipeline: Pipeline) -> None:
    event = Event(order_in(SHARD), 1)
    await write(real_pipeline.connection, [event])
    async with predecessor(real_pipeline) as (connection, lease, producer):
        batch = await claim(connection, lease, 0)
        successor = EventProducer(real_pipeline.settings(), real_pipeline.settings().shard_name(SHARD))
        try:
            await successor.open()
            with pytest.raises(BrokerFailed):
                await producer.publish(Batch(SHARD, 1, batch))
            assert await positions.last_committed(real_pipeline.settings(), SHARD) == 0
            await successor.publish(Batch(SHARD, 1, batch))
        finally:
            await successor.drop()
    async with real_pipeline.reader() as reader:
        assert [identity(record) for record in await reader.to_the_end()] == expected([event])


async def test_the_last_number_is_found_behind_many_aborted_ones(real_pipeline: Pipeline) -> None:
    async with predecessor(real_pipeline) as (_, _, producer):
        client = producer._producer
        for number in range(1, 31):
            await client.begin_transaction()
            await producer._send_position(Batch(SHARD, number, []))
            await client.abort_transaction()
        assert await positions.last_committed(real_pipeline.settings(), SHARD) == 0


async def test_a_shard_is_taken_over_once_its_lease_is_over(pipeline: Pipeline) -> None:
    connection = await asyncpg.connect(pipeline.url)
    try:
        await take(connection, "dead", lease_seconds=0.5)
        assert await store.take_lease(connection, SHARD, "alive", 1) is None
        taken = await eventually(lambda: store.take_lease(connection, SHARD, "alive", 1), 5, "the end of the lease")
        assert taken is not None
        assert taken.epoch == 2
    finally:
        await connection.close()


async def test_batch_sent_without_a_transaction_is_sent_again(pipeline: Pipeline) -> None:
    event = Event(order_in(SHARD), 1)
    await write(pipeline.connection, [event])
    async with predecessor(pipeline) as (connection, lease, _):
        await claim(connection, lease, 0, in_transaction=False)
    async with pipeline.relay(transactions=False), pipeline.reader() as reader:
        await pipeline.until_sent(1)
        assert [identity(record) for record in await reader.to_the_end()] == expected([event])
    assert await pipeline.connection.fetchval("SELECT batch_number FROM relay.shards WHERE shard = $1", SHARD) == 0


async def test_relay_without_transactions_settles_an_open_transaction(pipeline: Pipeline) -> None:
    event, later = Event(order_in(SHARD), 1), Event(order_in(SHARD), 1)
    await write(pipeline.connection, [event])
    async with predecessor(pipeline) as (connection, lease, producer):
        await producer.publish(Batch(SHARD, 1, await claim(connection, lease, 0)))
    async with pipeline.relay(transactions=False), pipeline.reader() as reader:
        await write(pipeline.connection, [later])
        await pipeline.until_sent(2)
        assert [identity(record) for record in await reader.to_the_end()] == expected([event, later])


async def test_transactions_can_be_switched_off_and_on_again(pipeline: Pipeline) -> None:
    events = [Event(order_in(SHARD), 1) for _ in range(3)]
    for event, transactions in zip(events, (True, False, True), strict=True):
        async with pipeline.relay(transactions=transactions):
            await write(pipeline.connection, [event])
            await pipeline.until_sent(events.index(event) + 1)
    async with pipeline.reader() as reader:
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(events))
    assert (await pipeline.positions())[SHARD] == 2
