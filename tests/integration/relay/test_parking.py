"""An event that the broker refuses stops its own order and no other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from services.relay import metrics
from shared.ids import uuid7
from tests.infrastructure.pipeline import Event, Pipeline, expected, identity, order_in, write
from tests.infrastructure.waiting import eventually

TOPIC_BYTES_MAX = 20_000
TOO_LARGE = b"x" * 50_000


@asynccontextmanager
async def narrow_topic(pipeline: Pipeline, bytes_max: int = TOPIC_BYTES_MAX) -> AsyncIterator[None]:
    """Create the pipeline's topic with a limit for small records only."""
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.kafka)
    await admin.start()
    try:
        limit = {"max.message.bytes": str(bytes_max)}
        await admin.create_topics([NewTopic(pipeline.topic, 4, 1, topic_configs=limit)])
        yield
    finally:
        await admin.close()


async def parked(pipeline: Pipeline) -> list[tuple[str, int, str]]:
    rows = await pipeline.connection.fetch(
        "SELECT order_id, sequence, parked_reason FROM orders.outbox WHERE status = 'PARKED' ORDER BY outbox_id"
    )
    return [(str(row["order_id"]), row["sequence"], row["parked_reason"]) for row in rows]


@pytest.mark.parametrize("transactions", [True, False])
async def test_a_refused_event_parks_the_rest_of_its_order_and_no_other(
    real_pipeline: Pipeline, *, transactions: bool
) -> None:
    poisoned, shard = order_in(3), 3
    before = [Event(order_in(shard), 1) for _ in range(20)]
    own = [Event(poisoned, 1), Event(poisoned, 2, payload=TOO_LARGE), Event(poisoned, 3)]
    after = [Event(order_in(shard), 1) for _ in range(20)]
    async with (
        narrow_topic(real_pipeline),
        real_pipeline.relay(transactions=transactions),
        real_pipeline.reader() as reader,
    ):
        await write(real_pipeline.connection, [*before, *own, *after])
        await real_pipeline.until_sent(41)
        records = await reader.to_the_end()
        assert {identity(record) for record in records} == set(expected([*before, own[0], *after]))
        if transactions:
            assert len(records) == 41
        (second, third) = await parked(real_pipeline)
        assert second[:2] == (str(poisoned), 2)
        assert "MessageSizeTooLarge" in second[2]
        assert third == (str(poisoned), 3, "follows a parked event")


async def test_an_event_that_joins_a_parked_order_is_parked_too(real_pipeline: Pipeline) -> None:
    poisoned = order_in(0)
    async with narrow_topic(real_pipeline), real_pipeline.relay(), real_pipeline.reader() as reader:
        await write(real_pipeline.connection, [Event(poisoned, 1, payload=TOO_LARGE)])
        await eventually(lambda: parked(real_pipeline), 20, "a parked event")
        other = Event(order_in(0), 1)
        await write(real_pipeline.connection, [Event(poisoned, 2), other])
        await real_pipeline.until_sent(1)
        assert [identity(record) for record in await reader.to_the_end()] == expected([other])
        assert [sequence for _, sequence, _ in await parked(real_pipeline)] == [1, 2]


async def test_two_refused_events_are_both_found(real_pipeline: Pipeline) -> None:
    good = [Event(order_in(0), 1) for _ in range(10)]
    poison = [Event(order_in(0), 1, payload=TOO_LARGE) for _ in range(2)]
    async with narrow_topic(real_pipeline), real_pipeline.relay(), real_pipeline.reader() as reader:
        await write(real_pipeline.connection, [*good[:5], poison[0], *good[5:], poison[1]])
        await real_pipeline.until_sent(10)
        assert len(await reader.to_the_end()) == 10
        await eventually(lambda: both(real_pipeline), 20, "two parked events")


async def test_shard_that_parks_many_refused_events_is_not_failing(real_pipeline: Pipeline) -> None:
    poison = [Event(order_in(0), 1, payload=TOO_LARGE) for _ in range(30)]
    async with narrow_topic(real_pipeline), real_pipeline.relay() as relay:
        await write(real_pipeline.connection, poison)

        async def all_parked() -> bool:
            assert not any(publisher.failures.failing for publisher in relay.publishers())
            return len(await parked(real_pipeline)) == len(poison)

        await eventually(all_parked, 30, "30 parked events")


async def both(pipeline: Pipeline) -> bool:
    return len(await parked(pipeline)) == 2


async def test_batch_too_large_only_as_a_whole_is_published_in_parts(real_pipeline: Pipeline) -> None:
    events = [Event(order_in(1), 1, payload=b"x" * 10_000) for _ in range(30)]
    async with narrow_topic(real_pipeline), real_pipeline.relay(), real_pipeline.reader() as reader:
        await write(real_pipeline.connection, events)
        records = await reader.until(30)
        await real_pipeline.until_sent(30)
    assert sorted(map(identity, records)) == sorted(expected(events))
    assert await parked(real_pipeline) == []


async def test_record_batches_become_small_enough_for_a_narrow_topic(real_pipeline: Pipeline) -> None:
    async with narrow_topic(real_pipeline), real_pipeline.relay():
        for written in range(30, 12 * 30, 30):
            before = refusals()
            await write(real_pipeline.connection, [Event(order_in(1), 1, payload=b"x" * 2_000) for _ in range(30)])
            await real_pipeline.until_sent(written)
            if refusals() == before:
                break
        else:
            pytest.fail("batches were refused again and again")
    assert await parked(real_pipeline) == []


def refusals() -> float:
    """Return how often batches of shard 1 were refused."""
    return float(metrics.FAILURES.labels(1, "refused-events")._value.get())


async def test_an_event_too_large_for_any_topic_is_refused_when_it_is_written(pipeline: Pipeline) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await Event(uuid7(), 1, payload=b"x" * 800_000).insert(pipeline.connection)


async def test_ten_thousand_orders_are_published_despite_a_parked_one(real_pipeline: Pipeline) -> None:
    poisoned = order_in(0)
    refusals = metrics.FAILURES.labels(0, "refused-events")
    # The limit is large enough for batches: this event is refused itself, not because of the others in its batch.
    wide, too_large = narrow_topic(real_pipeline, 700_000), b"x" * 750_000
    async with wide, real_pipeline.relay(), real_pipeline.reader() as reader:
        await write(real_pipeline.connection, [Event(poisoned, 1, payload=too_large)])
        await eventually(lambda: parked(real_pipeline), 20, "a parked event")
        before = refusals._value.get()
        others = [Event(order_in(number % 4), 1) for number in range(10_000)]
        for start in range(0, len(others), 1000):
            joining = Event(poisoned, 2 + start // 1000)
            await write(real_pipeline.connection, [*others[start : start + 1000], joining])
        await real_pipeline.until_sent(10_000, seconds=60)
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(others))
        assert await real_pipeline.statuses() == {"SENT": 10_000, "PARKED": 11}
        assert refusals._value.get() == before, "no event was sent again because of the parked order"
