"""An event that the broker refuses stops its own order and no other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from services.relay import metrics
from shared.ids import uuid7
from tests.infrastructure.waiting import eventually
from tests.integration.relay.world import Event, World, expected, identity, order_in, write

TOPIC_BYTES_MAX = 20_000
TOO_LARGE = b"x" * 50_000


@asynccontextmanager
async def narrow_topic(world: World, bytes_max: int = TOPIC_BYTES_MAX) -> AsyncIterator[None]:
    """The world's topic, declared by somebody who allows small records only."""
    admin = AIOKafkaAdminClient(bootstrap_servers=world.kafka)
    await admin.start()
    try:
        limit = {"max.message.bytes": str(bytes_max)}
        await admin.create_topics([NewTopic(world.topic, 4, 1, topic_configs=limit)])
        yield
    finally:
        await admin.close()


async def parked(world: World) -> list[tuple[str, int, str]]:
    rows = await world.connection.fetch(
        "SELECT order_id, sequence, parked_reason FROM orders.outbox WHERE status = 'PARKED' ORDER BY outbox_id"
    )
    return [(str(row["order_id"]), row["sequence"], row["parked_reason"]) for row in rows]


@pytest.mark.parametrize("transactions", [True, False])
async def test_a_refused_event_parks_the_rest_of_its_order_and_no_other(
    real_world: World, *, transactions: bool
) -> None:
    poisoned, shard = order_in(3), 3
    before = [Event(order_in(shard), 1) for _ in range(20)]
    own = [Event(poisoned, 1), Event(poisoned, 2, payload=TOO_LARGE), Event(poisoned, 3)]
    after = [Event(order_in(shard), 1) for _ in range(20)]
    async with narrow_topic(real_world), real_world.relay(transactions=transactions), real_world.reader() as reader:
        await write(real_world.connection, [*before, *own, *after])
        await real_world.until_sent(41)
        records = await reader.to_the_end()
        assert {identity(record) for record in records} == set(expected([*before, own[0], *after]))
        if transactions:
            assert len(records) == 41
        (second, third) = await parked(real_world)
        assert second[:2] == (str(poisoned), 2)
        assert "MessageSizeTooLarge" in second[2]
        assert third == (str(poisoned), 3, "follows a parked event")


async def test_an_event_that_joins_a_parked_order_is_parked_too(real_world: World) -> None:
    poisoned = order_in(0)
    async with narrow_topic(real_world), real_world.relay(), real_world.reader() as reader:
        await write(real_world.connection, [Event(poisoned, 1, payload=TOO_LARGE)])
        await eventually(lambda: parked(real_world), 20, "a parked event")
        other = Event(order_in(0), 1)
        await write(real_world.connection, [Event(poisoned, 2), other])
        await real_world.until_sent(1)
        assert [identity(record) for record in await reader.to_the_end()] == expected([other])
        assert [sequence for _, sequence, _ in await parked(real_world)] == [1, 2]


async def test_two_refused_events_are_both_found(real_world: World) -> None:
    good = [Event(order_in(0), 1) for _ in range(10)]
    poison = [Event(order_in(0), 1, payload=TOO_LARGE) for _ in range(2)]
    async with narrow_topic(real_world), real_world.relay(), real_world.reader() as reader:
        await write(real_world.connection, [*good[:5], poison[0], *good[5:], poison[1]])
        await real_world.until_sent(10)
        assert len(await reader.to_the_end()) == 10
        await eventually(lambda: both(real_world), 20, "two parked events")


async def test_shard_that_parks_many_refused_events_is_not_failing(real_world: World) -> None:
    poison = [Event(order_in(0), 1, payload=TOO_LARGE) for _ in range(30)]
    async with narrow_topic(real_world), real_world.relay() as relay:
        await write(real_world.connection, poison)

        async def all_parked() -> bool:
            assert not any(publisher.failures.failing for publisher in relay.publishers())
            return len(await parked(real_world)) == len(poison)

        await eventually(all_parked, 30, "30 parked events")


async def both(world: World) -> bool:
    return len(await parked(world)) == 2


async def test_batch_too_large_only_as_a_whole_is_published_in_parts(real_world: World) -> None:
    events = [Event(order_in(1), 1, payload=b"x" * 10_000) for _ in range(30)]
    async with narrow_topic(real_world), real_world.relay(), real_world.reader() as reader:
        await write(real_world.connection, events)
        records = await reader.until(30)
        await real_world.until_sent(30)
    assert sorted(map(identity, records)) == sorted(expected(events))
    assert await parked(real_world) == []


async def test_record_batches_become_small_enough_for_a_narrow_topic(real_world: World) -> None:
    async with narrow_topic(real_world), real_world.relay():
        for written in range(30, 12 * 30, 30):
            before = refusals()
            await write(real_world.connection, [Event(order_in(1), 1, payload=b"x" * 2_000) for _ in range(30)])
            await real_world.until_sent(written)
            if refusals() == before:
                break
        else:
            pytest.fail("batches were refused again and again")
    assert await parked(real_world) == []


def refusals() -> float:
    """How often batches of shard 1 were refused."""
    return float(metrics.FAILURES.labels(1, "refused-events")._value.get())


async def test_an_event_too_large_for_any_topic_is_refused_when_it_is_written(world: World) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await Event(uuid7(), 1, payload=b"x" * 800_000).insert(world.connection)


async def test_ten_thousand_orders_are_published_beside_a_parked_one(real_world: World) -> None:
    poisoned = order_in(0)
    refusals = metrics.FAILURES.labels(0, "refused-events")
    # Large enough for batches: this event is refused because of itself, and not because of the events beside it.
    wide, too_large = narrow_topic(real_world, 700_000), b"x" * 750_000
    async with wide, real_world.relay(), real_world.reader() as reader:
        await write(real_world.connection, [Event(poisoned, 1, payload=too_large)])
        await eventually(lambda: parked(real_world), 20, "a parked event")
        before = refusals._value.get()
        others = [Event(order_in(number % 4), 1) for number in range(10_000)]
        for start in range(0, len(others), 1000):
            joining = Event(poisoned, 2 + start // 1000)
            await write(real_world.connection, [*others[start : start + 1000], joining])
        await real_world.until_sent(10_000, seconds=60)
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(others))
        assert await real_world.statuses() == {"SENT": 10_000, "PARKED": 11}
        assert refusals._value.get() == before, "nobody was sent again because of the parked order"
