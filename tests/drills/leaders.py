"""Three Kafka brokers, of which one is lost, paused or replaced."""

import asyncio
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient

from tests.drills.drill import Drill, Fault, now
from tests.drills.platform import Pace, Platform, platform
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_ports

# Two brokers have each write before it is acknowledged, so one may be lost.
REPLICATED = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
}
LEADER_SECONDS = 60
WHOLE_SECONDS = 60


class Brokers:
    """Three brokers. Each is a controller as well, so that any of them may be lost."""

    def __init__(self, reaper: Reaper) -> None:
        controllers = dict(zip((1, 2, 3), free_ports(3), strict=True))
        voters = ",".join(f"{node}@localhost:{port}" for node, port in controllers.items())
        self.nodes = {
            node: OwnBroker(
                reaper,
                instead={**REPLICATED, "controller.quorum.voters": voters, "node.id": str(node)},
                controller_port=port,
            )
            for node, port in controllers.items()
        }
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
        """Return the broker that leads most partitions of the topic and the positions; 0 if there is none."""
        leaders = [one["leader"] for one in await self._partitions()]
        return max(set(leaders) - {-1}, key=leaders.count, default=0)

    async def whole(self) -> bool:
        """Return whether each broker has every record, so that another one may be lost."""
        return all(len(one["isr"]) == len(self.nodes) for one in await self._partitions())

    async def _partitions(self) -> list[dict[str, Any]]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
        await admin.start()
        try:
            topics = await admin.describe_topics(["orders.v1", "orders.v1.positions"])
        finally:
            await admin.close()
        return [one for topic in topics for one in topic["partitions"]]


@asynccontextmanager
async def replicated(reaper: Reaper, folder: Path, pace: Pace) -> AsyncIterator[Platform]:
    """Run the platform with three brokers."""
    settings = {"RELAY_TOPIC_REPLICATION": "3"}
    async with platform(reaper, folder, pace, broker=Brokers(reaper), settings=settings) as running:
        yield running


async def leader_lost(platform: Platform) -> float:
    """Kill the broker that leads most partitions; the others take over. It comes back when customers have bought."""
    brokers = _brokers(platform)
    return await _lost(platform, await eventually(brokers.leader, LEADER_SECONDS, "a leader"), signal.SIGKILL)


def each(number: signal.Signals) -> Fault:
    """Return the fault of all brokers that get a signal in turn, and are started again."""

    async def strike(platform: Platform) -> float:
        brokers = _brokers(platform)
        recovered_at = 0.0
        for node in brokers.nodes:
            recovered_at = await _lost(platform, node, number)
            await eventually(brokers.whole, WHOLE_SECONDS, "every record at each broker")
        return recovered_at

    return strike


async def leader_hung(platform: Platform) -> float:
    """Pause the broker that leads most partitions, until the others have taken over and customers have bought."""
    brokers = _brokers(platform)
    victim = brokers.nodes[await eventually(brokers.leader, LEADER_SECONDS, "a leader")]
    began = now()
    await asyncio.to_thread(victim.pause)
    try:
        recovered_seconds = await platform.recovered(began)
    finally:
        victim.wake()
    await eventually(brokers.whole, WHOLE_SECONDS, "every record at each broker")
    return now() - recovered_seconds


async def _lost(platform: Platform, node: int, number: signal.Signals) -> float:
    victim = _brokers(platform).nodes[node]
    began = now()
    await asyncio.to_thread(victim.end, number)
    recovered_seconds = await platform.recovered(began)
    await asyncio.to_thread(victim.start)
    return now() - recovered_seconds  # the time without the victim counts, and its own start does not


def _brokers(platform: Platform) -> Brokers:
    assert isinstance(platform.broker, Brokers)
    return platform.broker


DRILLS = [
    Drill(
        "kafka-leader",
        "SIGKILL of the leader among three Kafka brokers, which comes back later",
        leader_lost,
        recover_max_seconds=60,
        failed_max=0,
        in_short=True,
    ),
    Drill(
        "kafka-kill-each",
        "SIGKILL of each of three Kafka brokers in turn, started again",
        each(signal.SIGKILL),
        recover_max_seconds=60,
        failed_max=0,
    ),
    Drill(
        "kafka-rolling",
        "each of three Kafka brokers is stopped in turn, and started again",
        each(signal.SIGTERM),
        recover_max_seconds=60,
        failed_max=0,
    ),
    Drill(
        "kafka-leader-hang",
        "SIGSTOP of the leader among three Kafka brokers, then SIGCONT",
        leader_hung,
        recover_max_seconds=60,
        failed_max=0,
    ),
]
