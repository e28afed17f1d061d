"""A cluster whose partitions lose their leader, coordinators among them: no event is lost or published twice."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually
from tests.integration.relay.own_broker import OwnBroker
from tests.integration.relay.test_competition import assert_in_sequence, progress, writing
from tests.integration.relay.world import Event, World

# Each write is at two brokers before it is acknowledged, so one may die.
REPLICATED = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "min.insync.replicas": "2",
}
LOSSES = 2


@pytest.fixture(scope="module")
def cluster(reaper: Reaper) -> Iterator[dict[int, OwnBroker]]:
    """Three brokers by node id; the first one is the controller as well, and stays."""
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
    world: World, migrated: Database, cluster: dict[int, OwnBroker]
) -> None:
    replicated = replace(world, kafka=",".join(broker.address for broker in cluster.values()))
    committed: list[Event] = []
    async with replicated.relay(batch_events=10, kafka_timeout_seconds=5, topic_replication=3):
        await replicated.until_held(seconds=60)
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


async def partitions(world: World) -> list[dict[str, int]]:
    """What the cluster tells of the partitions of the topic and of the positions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=world.kafka)
    await admin.start()
    try:
        topics = await admin.describe_topics([world.topic, f"{world.topic}.positions"])
    finally:
        await admin.close()
    return [partition for topic in topics for partition in topic["partitions"]]


async def leader(world: World, *, others_than: int) -> int:
    """The broker that leads most partitions."""

    async def most() -> int:
        leaders = [one["leader"] for one in await partitions(world)]
        return max(set(leaders) - {others_than, -1}, key=leaders.count, default=0)

    return await eventually(most, 30, "a leader")


async def in_sync(world: World) -> None:
    """Wait until every partition has all its replicas again, so that the next loss is the only one."""

    async def all_are() -> bool:
        return all(len(one["isr"]) == 3 for one in await partitions(world))  # type: ignore[arg-type]

    await eventually(all_are, 60, "replicas in sync")
