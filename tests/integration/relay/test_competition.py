"""Several replicas that die and pause publish every event once and in sequence."""

import random
import signal

import pytest

from tests.infrastructure.databases import Database
from tests.infrastructure.outbox_writers import assert_in_sequence, progress, writing
from tests.infrastructure.pipeline import Event, Pipeline, order_in, write
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.relay_processes import epochs, replicas, until_epochs
from tests.infrastructure.waiting import eventually, free_port

KILLS = 5


async def test_replicas_share_the_shards_and_take_them_over_in_order(pipeline: Pipeline) -> None:
    holders = "SELECT holder, count(*) FROM relay.shards WHERE holder IS NOT NULL GROUP BY holder ORDER BY holder"

    async def shared(*counts: tuple[str, int]) -> None:
        async def are_so() -> bool:
            return [tuple(row) for row in await pipeline.connection.fetch(holders)] == list(counts)

        await eventually(are_so, 15, f"shards held as {counts}")

    async with pipeline.relay(replica="a"):
        await shared(("a", 4))
        async with pipeline.relay(replica="b"):
            await shared(("a", 2), ("b", 2))
        await shared(("a", 4))


async def test_replica_without_broker_leaves_its_shards_to_another(pipeline: Pipeline) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    events = [Event(order_in(shard), 1) for shard in range(4)]
    async with pipeline.relay(replica="cut off", kafka_bootstrap_servers=nowhere), pipeline.relay(replica="healthy"):
        await pipeline.until_held("healthy")
        await write(pipeline.connection, events)
        await pipeline.until_sent(4)
        assert await pipeline.connection.fetchval("SELECT array_agg(replica) FROM relay.replicas") == ["healthy"]


async def test_killed_replicas_lose_and_repeat_nothing(
    real_pipeline: Pipeline, migrated: Database, reaper: Reaper
) -> None:
    seed = random.randrange(1_000_000)
    print("seed", seed)
    chance = random.Random(seed)
    with replicas(real_pipeline, reaper) as start:
        living = [start(), start()]
        await real_pipeline.until_held()
        async with writing(migrated, seed) as events:
            for _ in range(KILLS):
                victim = chance.randrange(2)
                await progress(real_pipeline, chance.randint(1, 60))
                await living[victim].end(signal.SIGKILL)
                living[victim] = start()
        await real_pipeline.until_sent(len(events), seconds=40)
        async with real_pipeline.reader() as reader:
            assert_in_sequence(real_pipeline, await reader.to_the_end(), events)
        for replica in living:
            await eventually(replica.serves, 30, "a replica that was started last")
        assert [await replica.end(signal.SIGTERM) for replica in living] == [0, 0]


async def test_replica_paused_past_its_lease_publishes_nothing_twice(
    real_pipeline: Pipeline, migrated: Database, reaper: Reaper
) -> None:
    seed = random.randrange(1_000_000)
    print("seed", seed)
    with replicas(real_pipeline, reaper) as start:
        both = [start(), start()]
        two = "SELECT count(DISTINCT holder) = 2 AND bool_and(holder IS NOT NULL) FROM relay.shards"
        await eventually(lambda: real_pipeline.connection.fetchval(two), 30, "shards that both replicas share")
        async with writing(migrated, seed) as events:
            for replica in [*both, *both]:
                await progress(real_pipeline, 10)
                before = await epochs(real_pipeline)
                replica.pause()
                await until_epochs(real_pipeline, before + 2)  # the other one has taken its two shards over
                replica.wake()
        await real_pipeline.until_sent(len(events), seconds=40)
        async with real_pipeline.reader() as reader:
            assert_in_sequence(real_pipeline, await reader.to_the_end(), events)
        assert [await replica.end(signal.SIGTERM) for replica in both] == [0, 0]


@pytest.mark.parametrize("transactions", [True, False])
async def test_replicas_that_start_and_stop_keep_each_order_in_sequence(
    pipeline: Pipeline, migrated: Database, *, transactions: bool
) -> None:
    async with writing(migrated, 7) as events:
        for _ in range(3):
            first, second = (pipeline.relay(transactions=transactions, batch_events=10) for _ in range(2))
            async with first, second:
                await progress(pipeline, 30)
    async with pipeline.relay(transactions=transactions):
        await pipeline.until_sent(len(events))
    async with pipeline.reader() as reader:
        once = transactions and pipeline.real_broker
        assert_in_sequence(pipeline, await reader.to_the_end(), events, once=once)


async def test_shard_taken_by_force_repeatedly_publishes_each_event_once(
    real_pipeline: Pipeline, migrated: Database
) -> None:
    async with real_pipeline.relay(), writing(migrated, 11) as events:
        for _ in range(20):
            await progress(real_pipeline, 5)
            await real_pipeline.connection.execute("UPDATE relay.shards SET epoch = epoch + 1")
    async with real_pipeline.relay():
        await real_pipeline.until_sent(len(events))
    async with real_pipeline.reader() as reader:
        assert_in_sequence(real_pipeline, await reader.to_the_end(), events)


async def test_busy_shard_delays_no_other_shard(pipeline: Pipeline) -> None:
    backlog = [Event(order_in(0), 1) for _ in range(300)]
    quick = Event(order_in(1), 1)
    await write(pipeline.connection, [*backlog, quick])
    async with pipeline.relay(batch_events=5):
        sent = "SELECT status = 'SENT' FROM orders.outbox WHERE event_id = $1"
        await eventually(lambda: pipeline.connection.fetchval(sent, quick.event_id), 20, "the other shard's event")
        assert (await pipeline.statuses())["PENDING"] > 0
        await pipeline.until_sent(301)
