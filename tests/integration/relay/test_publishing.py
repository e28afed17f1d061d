"""The events of the outbox that reach the topic, and their records there."""

import asyncpg

from services.relay.process import Relay
from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Event, Pipeline, expected, header, identity, order_in, write
from tests.infrastructure.waiting import eventually


async def all_idle(relay: Relay) -> bool:
    return len(relay.publishers()) == 4 and all(publisher.idle for publisher in relay.publishers())


async def test_committed_event_is_on_the_topic_as_in_the_contract(pipeline: Pipeline) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = Event(uuid7(), 1, traceparent=traceparent)
    async with pipeline.relay(), pipeline.reader() as reader:
        await write(pipeline.connection, [event])
        (record,) = await reader.until(1)
    occurred_at = await pipeline.connection.fetchval("SELECT occurred_at FROM orders.outbox")
    assert record.key == str(event.order_id).encode()
    assert record.value == event.payload
    assert dict(record.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": str(event.event_id).encode(),
        "ce_source": b"/services/order",
        "ce_type": b"order.paid.v1",
        "ce_time": occurred_at.isoformat().replace("+00:00", "Z").encode(),
        "ce_subject": str(event.order_id).encode(),
        "ce_sequence": b"00000000000000000001",
        "ce_traceparent": traceparent.encode(),
        "content-type": b"application/json",
    }


async def test_a_published_event_is_marked(pipeline: Pipeline) -> None:
    async with pipeline.relay():
        await write(pipeline.connection, [Event(uuid7(), 1)])
        await pipeline.until_sent(1)
    assert await pipeline.connection.fetchval("SELECT sent_at >= occurred_at FROM orders.outbox")


async def test_all_events_of_an_order_are_in_one_partition_in_sequence(pipeline: Pipeline) -> None:
    orders = [uuid7() for _ in range(40)]
    events = [Event(order_id, sequence) for sequence in range(1, 6) for order_id in orders]
    await write(pipeline.connection, events)
    async with pipeline.relay(batch_events=30), pipeline.reader() as reader:
        records = await reader.until(len(events))
    assert len({record.partition for record in records}) == 4
    for order_id in orders:
        own = [record for record in records if record.key == str(order_id).encode()]
        assert [int(header(record, "ce_sequence")) for record in own] == [1, 2, 3, 4, 5]
        assert len({record.partition for record in own}) == 1


async def test_an_event_with_a_lower_id_that_commits_after_a_higher_one_is_published(
    pipeline: Pipeline, migrated: Database
) -> None:
    late, early = Event(order_in(0), 1), Event(order_in(0), 1)
    slow = await asyncpg.connect(migrated.url)
    try:
        async with pipeline.relay(), pipeline.reader() as reader:
            transaction = slow.transaction()
            await transaction.start()
            low = await late.insert(slow)
            async with pipeline.connection.transaction():
                high = await early.insert(pipeline.connection)
            assert low < high
            await pipeline.until_sent(1)
            await transaction.commit()
            records = await reader.until(2)
    finally:
        await slow.close()
    assert [identity(record) for record in records] == expected([early, late])


async def test_an_event_of_a_transaction_that_rolled_back_is_never_published(pipeline: Pipeline) -> None:
    gone, kept = Event(order_in(1), 1), Event(order_in(1), 1)
    async with pipeline.relay(), pipeline.reader() as reader:
        transaction = pipeline.connection.transaction()
        await transaction.start()
        await gone.insert(pipeline.connection)
        await transaction.rollback()
        await write(pipeline.connection, [kept])
        await pipeline.until_sent(1)
        assert [identity(record) for record in await reader.to_the_end()] == expected([kept])


async def test_a_notification_wakes_the_relay_long_before_its_poll(pipeline: Pipeline) -> None:
    async with pipeline.relay(poll_interval_seconds=60, lease_seconds=60) as relay:
        await eventually(lambda: all_idle(relay), 10, "all shards idle")
        await write(pipeline.connection, [Event(uuid7(), 1)])
        await pipeline.until_sent(1, seconds=5)


async def test_an_event_without_a_notification_is_found_by_the_poll(pipeline: Pipeline) -> None:
    async with pipeline.relay(poll_interval_seconds=0.3, lease_seconds=60) as relay:
        await eventually(lambda: all_idle(relay), 10, "all shards idle")
        await write(pipeline.connection, [Event(uuid7(), 1)], notify=False)
        await pipeline.until_sent(1, seconds=5)


async def test_without_transactions_events_are_published_too(pipeline: Pipeline) -> None:
    orders = [uuid7() for _ in range(10)]
    events = [Event(order_id, sequence) for sequence in (1, 2, 3) for order_id in orders]
    async with pipeline.relay(transactions=False, batch_events=7), pipeline.reader() as reader:
        await write(pipeline.connection, events)
        records = await reader.until(len(events))
        await pipeline.until_sent(len(events))
    assert sorted(map(identity, records)) == sorted(expected(events))
    for order_id in orders:
        own = [record for record in records if record.key == str(order_id).encode()]
        assert [int(header(record, "ce_sequence")) for record in own] == [1, 2, 3]


async def test_events_are_numbered_with_their_batch_on_the_position_topic(pipeline: Pipeline) -> None:
    async with pipeline.relay():
        await pipeline.until_held()
        for sequence in (1, 2):
            await write(pipeline.connection, [Event(order_in(shard), sequence) for shard in (0, 1)])
            await pipeline.until_sent(2 * sequence)
    assert await pipeline.positions() == {0: 2, 1: 2, 2: 0, 3: 0}


async def test_large_backlog_is_published_in_batches_of_bounded_size(pipeline: Pipeline) -> None:
    events = [Event(order_in(2), 1, payload=b"x" * 300_000) for _ in range(12)]
    await write(pipeline.connection, events)
    async with pipeline.relay(batch_bytes=1_000_000), pipeline.reader(max_partition_fetch_bytes=4_000_000) as reader:
        records = await reader.until(len(events))
        await pipeline.until_sent(len(events))
    assert sorted(map(identity, records)) == sorted(expected(events))
    assert await pipeline.connection.fetchval("SELECT batch_number FROM relay.shards WHERE shard = 2") == 4
