"""Consumers that are killed, paused past their session or made to read all again end equal to what was committed."""

import asyncio
import os
import random
import signal

import pytest

from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import OrderEvent, Platform, an_order, mark_sent, publish
from tests.integration.consumer.test_consuming import copied
from tests.integration.relay.world import World

ORDERS = 500
KILLS = 10
pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(400)]


@pytest.fixture
def source() -> random.Random:
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
    print(f"FAULTS_SEED={seed}")
    return random.Random(seed)


async def received(consuming: Platform) -> int:
    count: int = await consuming.connection.fetchval("SELECT count(*) FROM platform.inbox")
    return count


async def until_received(consuming: Platform, count: int) -> None:
    async def enough() -> bool:
        return await received(consuming) >= count

    await eventually(enough, 90, f"{count} events received")


async def test_two_consumers_that_are_killed_at_any_moment_count_each_event_once(
    consuming: Platform, world: World, source: random.Random
) -> None:
    events = [event for _ in range(ORDERS) for event in an_order(source)]
    lost = an_order(source, ("placed", "paid"))
    # Small batches: more moments to be killed between them, and in the middle of one.
    running = {name: consuming.start(CONSUMER_INSTANCE=name, CONSUMER_BATCH_RECORDS="5") for name in ("one", "two")}
    await mark_sent(world, lost[0])
    await publish(world, lost[1:])
    writing = asyncio.create_task(write(world, events))
    for target in sorted(source.sample(range(len(events) * 9 // 10), KILLS)):
        await until_received(consuming, target)
        name = source.choice(list(running))
        running[name].kill()
        if source.random() < 0.2:
            await copied(world)
        running[name] = consuming.start(CONSUMER_INSTANCE=name, CONSUMER_BATCH_RECORDS="5")
    await writing
    await consuming.until_equal([*events, *lost], 120)
    await copied(world)
    await consuming.until_equal([*events, *lost], 120)
    body = await consuming.until_proven(seconds=120)
    assert (body["unproven"], body["waiting_orders"], body["dead_letters"]) == ([], 0, 0)
    assert await received(consuming) == len(events) + len(lost)
    await all_closed_are_equal(consuming, world)


async def write(world: World, events: list[OrderEvent]) -> None:
    """Commit events a few at a time, each order's in sequence, so that batches of consumers meet all kinds of ends."""
    for start in range(0, len(events), 20):
        await publish(world, events[start : start + 20])


async def all_closed_are_equal(consuming: Platform, world: World) -> None:
    """Compare with the outbox itself, count by count, what the consumer says is equal."""
    compared = await consuming.connection.fetch("SELECT DISTINCT bucket FROM platform.buckets WHERE state = 'EQUAL'")
    minutes = [row["bucket"] for row in compared]
    query = "SELECT count(*) FROM {} WHERE date_trunc('minute', occurred_at) = ANY ($1)"
    ours = await consuming.connection.fetchval(query.format("platform.inbox"), minutes)
    theirs = await world.connection.fetchval(query.format("orders.outbox"), minutes)
    assert ours == theirs
    assert ours > 0


async def test_a_consumer_that_was_paused_past_its_session_changes_nothing_when_it_wakes_up(
    consuming: Platform, world: World, source: random.Random
) -> None:
    events = [event for _ in range(ORDERS) for event in an_order(source)]
    half = len(events) // 2
    sleeper = consuming.start(CONSUMER_BATCH_RECORDS="5")
    await publish(world, events[:half])
    await until_received(consuming, half // 4)
    sleeper.signal(signal.SIGSTOP)
    other = consuming.start(CONSUMER_BATCH_RECORDS="5")
    await publish(world, events[half:])
    await consuming.until_equal(events, 90)  # by the other alone, which has taken all partitions over
    sleeper.signal(signal.SIGCONT)
    await copied(world)
    await consuming.until_equal(events)
    # Which of them reads the copies is the group's to decide.
    for consumer in (sleeper, other):
        await consumer.ready()
    await consuming.until_equal(events)
    assert (await consuming.until_proven())["unproven"] == []
