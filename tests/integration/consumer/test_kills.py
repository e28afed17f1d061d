"""Consumers that are killed, paused past their session or made to read again end with exactly the committed events.

A short run by default; `make points` kills them more often.
"""

import asyncio
import os
import random
import signal

import pytest

from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import OrderEvent, Platform, an_order, mark_sent, publish
from tests.integration.consumer.test_consuming import copied

KILLS = 40 if os.environ.get("POINTS_ALL") else 5
ORDERS = 60 * KILLS
pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(350 + 10 * KILLS)]


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
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    events = [event for _ in range(ORDERS) for event in an_order(source)]
    lost = an_order(source, ("placed", "paid"))
    # Small batches: more chances of a kill between two batches, and within one.
    running = {name: consuming.start(CONSUMER_INSTANCE=name, CONSUMER_BATCH_RECORDS="5") for name in ("one", "two")}
    await mark_sent(pipeline, lost[0])
    await publish(pipeline, lost[1:])
    writing = asyncio.create_task(write(pipeline, events))
    for target in sorted(source.sample(range(len(events) * 9 // 10), KILLS)):
        await until_received(consuming, target)
        name = source.choice(list(running))
        running[name].kill()
        if source.random() < 0.2:
            await copied(pipeline)
        running[name] = consuming.start(CONSUMER_INSTANCE=name, CONSUMER_BATCH_RECORDS="5")
    await writing
    await consuming.until_equal([*events, *lost], 120)
    await copied(pipeline)
    await consuming.until_equal([*events, *lost], 120)
    body = await consuming.until_proven(seconds=120)
    assert (body["unproven"], body["waiting_orders"], body["dead_letters"]) == ([], 0, 0)
    assert await received(consuming) == len(events) + len(lost)
    await all_closed_are_equal(consuming, pipeline)


async def write(pipeline: Pipeline, events: list[OrderEvent]) -> None:
    """Commit a few events at a time, each order's in sequence, so that consumers' batches end at many points."""
    for start in range(0, len(events), 20):
        await publish(pipeline, events[start : start + 20])


async def all_closed_are_equal(consuming: Platform, pipeline: Pipeline) -> None:
    """Compare the counts of the outbox with those of minutes that the consumer reports as equal."""
    compared = await consuming.connection.fetch("SELECT DISTINCT bucket FROM platform.buckets WHERE state = 'EQUAL'")
    minutes = [row["bucket"] for row in compared]
    query = "SELECT count(*) FROM {} WHERE date_trunc('minute', occurred_at) = ANY ($1)"
    ours = await consuming.connection.fetchval(query.format("platform.inbox"), minutes)
    theirs = await pipeline.connection.fetchval(query.format("orders.outbox"), minutes)
    assert ours == theirs
    assert ours > 0


async def test_consumer_paused_past_its_session_changes_nothing_when_it_resumes(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    events = [event for _ in range(ORDERS) for event in an_order(source)]
    half = len(events) // 2
    sleeper = consuming.start(CONSUMER_BATCH_RECORDS="5")
    await publish(pipeline, events[:half])
    await until_received(consuming, half // 4)
    sleeper.signal(signal.SIGSTOP)
    other = consuming.start(CONSUMER_BATCH_RECORDS="5")
    await publish(pipeline, events[half:])
    await consuming.until_equal(events, 90)  # by the other alone, which has taken all partitions over
    sleeper.signal(signal.SIGCONT)
    await copied(pipeline)
    await consuming.until_equal(events)
    # The consumer group decides which of them reads the copies.
    for consumer in (sleeper, other):
        await consumer.ready()
    await consuming.until_equal(events)
    assert (await consuming.until_proven())["unproven"] == []
