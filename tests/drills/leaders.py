"""Three Kafka brokers, of which one is lost."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from tests.drills.drill import Drill, now
from tests.drills.platform import Pace, Platform, platform
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually

# Two brokers have each write before it is acknowledged, so one may be lost.
REPLICATED = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
}
LEADER_SECONDS = 60


class Brokers:
    """Three brokers; the first one is also the controller, and is not killed."""

    def __init__(self, reaper: Reaper) -> None:
        first = OwnBroker(reaper, instead=REPLICATED)
        voters = {"controller.quorum.voters": f"1@localhost:{first.ports['CONTROLLER']}"}
        others = {
            node: OwnBroker(reaper, instead={**REPLICATED, **voters, "process.roles": "broker", "node.id": str(node)})
            for node in (2, 3)
        }
        self.nodes = {1: first, **others}
        self.address = ",".join(broker.address for broker in self.nodes.values())

    def start(self) -> None:
        """Return once all answer."""
        with ThreadPoolExecutor(len(self.nodes)) as starting:
            list(starting.map(OwnBroker.start, self.nodes.values()))

    def pause(self) -> None:
        """Pause all."""
        for broker in self.nodes.values():
            broker.pause()

    def wake(self) -> None:
        """Resume those that run."""
        for broker in self.nodes.values():
            if broker.runs:
                broker.wake()

    async def leader(self) -> int:
        """Return the broker that leads most partitions of the topic and the positions, other than the controller."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
        await admin.start()
        try:
            topics = await admin.describe_topics(["orders.v1", "orders.v1.positions"])
        finally:
            await admin.close()
        leaders = [one["leader"] for topic in topics for one in topic["partitions"]]
        return max(set(leaders) - {1, -1}, key=leaders.count, default=0)


@asynccontextmanager
async def replicated(reaper: Reaper, folder: Path, pace: Pace) -> AsyncIterator[Platform]:
    """Run the platform with three brokers."""
    settings = {"RELAY_TOPIC_REPLICATION": "3"}
    async with platform(reaper, folder, pace, broker=Brokers(reaper), settings=settings) as running:
        yield running


async def leader_lost(platform: Platform) -> float:
    """Kill the broker that leads most partitions; the others take over. It comes back when customers have bought."""
    brokers = platform.broker
    assert isinstance(brokers, Brokers)
    victim = brokers.nodes[await eventually(brokers.leader, LEADER_SECONDS, "a leader")]
    began = now()
    await asyncio.to_thread(victim.kill)
    recovered_seconds = await platform.recovered(began)
    await asyncio.to_thread(victim.start)
    return now() - recovered_seconds  # the time without the victim counts, and its own start does not


DRILLS = [
    Drill(
        "kafka-leader",
        "SIGKILL of the leader among three Kafka brokers, which comes back later",
        leader_lost,
        recover_max_seconds=60,
        failed_max=0,
        in_short=True,
    )
]
