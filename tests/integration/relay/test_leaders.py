"""Partitions of a cluster lose their leaders, including coordinators: no event is lost or published twice."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.infrastructure.databases import Database
from tests.infrastructure.outbox_writers import assert_in_sequence, progress, writing
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.pipeline import Event, Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually

# Two brokers have each write before it is acknowledged, so one may die.
REPLICATED = {
    "default.replication.factor": "3",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "min.insync.replicas": "2",
}
LOSSES = 2


@pytest.fixture(scope="module")
def cluster(reaper: Reaper) -> Iterator[dict[int, OwnBroker]]:
    """Three brokers by node id; the first one is also the controller, and is not killed."""
    first = OwnBroker(reaper, instead=REPLICATED)
    voters = {"controller.quorum.voters": f"1@localhost:{first.ports['CONTROLLER']}"}
    others = {
        node: OwnBroker(reaper, instead={**REPLICATED, **voters, "process.roles": "broker", "node.id": str(node)})
        for node in (2, 3)
    }
    brokers = {1: first, **others}
    with ThreadPoolExecutor(len(brokers)) as starting:
        list(starting.map(OwnBroker.start, brokers.values()))
    yield brokers
    for broker in brokers.values():
        broker.kill()


@pytest.mark.timeout(300)
async def test_a_leader_that_is_lost_costs_no_event_and_repeats_none(
    pipeline: Pipeline, migrated: Database, cluster: dict[int, OwnBroker]
) -> None:
    replicated = replace(pipeline, kafka=",".join(broker.address for broker in cluster.values()))
    committed: list[Event] = []
    async with replicated.relay(batch_events=10, kafka_timeout_seconds=5, topic_replication=None) as relay:
        await replicated.until_held(seconds=60)
        assert await replication(replicated) == {3}, "the brokers' default"
        assert relay.broker.view.doubts == ()
        for loss in range(LOSSES):
            victim = await leader(replicated, others_than=1)
            async with writing(migrated, 31 + loss) as events:
                await progress(replicated, 20)
                cluster[victim].kill()
                await progress(replicated, 40, seconds=60)
                await asyncio.to_thread(cluster[victim].start)
                await in_sync(replicated)
            committed += events
        await replicated.until_sent(len(committed), seconds=60)
    assert await replicated.statuses() == {"SENT": len(committed)}
    async with replicated.reader() as reader:
        assert_in_sequence(replicated, await reader.to_the_end(), committed)


async def partitions(pipeline: Pipeline) -> list[dict[str, int]]:
    """Return the cluster's description of the partitions of all topics of the relay."""
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.kafka)
    await admin.start()
    try:
        topics = await admin.describe_topics([pipeline.topic + kind for kind in ("", ".positions", ".watermarks")])
    finally:
        await admin.close()
    return [partition for topic in topics for partition in topic["partitions"]]


async def replication(pipeline: Pipeline) -> set[int]:
    """Return how many replicas the partitions have."""
    return {len(one["replicas"]) for one in await partitions(pipeline)}  # type: ignore[arg-type]


async def leader(pipeline: Pipeline, *, others_than: int) -> int:
    """Return the broker that leads most partitions."""

    async def most() -> int:
        leaders = [one["leader"] for one in await partitions(pipeline)]
        return max(set(leaders) - {others_than, -1}, key=leaders.count, default=0)

    return await eventually(most, 30, "a leader")


async def in_sync(pipeline: Pipeline) -> None:
    """Wait until every partition has all its replicas again, before the next loss."""

    async def all_are() -> bool:
        return all(len(one["isr"]) == 3 for one in await partitions(pipeline))  # type: ignore[arg-type]

    await eventually(all_are, 60, "replicas in sync")
