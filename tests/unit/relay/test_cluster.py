"""The relay's topics on a cluster: how they are created, described and asked for, and which answers are failures."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IncompatibleBrokerVersion

from services.relay.kafka import admin
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.settings import RelaySettings

EVENTS, POSITIONS, WATERMARKS = "orders.v1", "orders.v1.positions", "orders.v1.watermarks"
UNKNOWN_TOPIC, TIMED_OUT, NO_RIGHT, EXISTS, INVALID_REPLICATION = 3, 7, 29, 36, 38


class Cluster:
    """Stands in for the library's admin client, and for the cluster that it asks."""

    def __init__(self) -> None:
        self.topics: dict[str, list[int]] = {}  # the number of replicas of each partition
        self.created: list[Any] = []
        self.steps: list[str] = []
        self.failures: list[Exception] = []
        self.controller: int | None = 1
        self.hidden = 0  # so many descriptions lack topics that were created
        self.codes: dict[str, int] = {}
        self.config_code = 0
        self.config_error: Exception | None = None
        self.concurrent = self.concurrent_max = 0

    async def start(self) -> None:
        self.steps.append("start")

    async def close(self) -> None:
        self.steps.append("close")

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        self.concurrent += 1
        self.concurrent_max = max(self.concurrent_max, self.concurrent)
        for _ in range(3):
            await asyncio.sleep(0)
        self.concurrent -= 1
        if self.failures:
            raise self.failures.pop(0)
        hidden = self.created and self.hidden > 0
        self.hidden -= bool(hidden)
        return [self._description(name, known=name in self.topics and not hidden) for name in names]

    def _description(self, name: str, *, known: bool) -> dict[str, Any]:
        replicas = self.topics[name] if known else []
        partitions = [{"partition": number, "replicas": [0] * count} for number, count in enumerate(replicas)]
        code = self.codes.get(name, 0 if known else UNKNOWN_TOPIC)
        return {"topic": name, "error_code": code, "partitions": partitions}

    async def describe_cluster(self) -> dict[str, Any]:
        return {"controller_id": self.controller, "brokers": [{"node_id": 1}]}

    async def create_topics(self, missing: list[Any]) -> Any:
        assert self.controller == 1
        self.created += missing
        self.topics |= {topic.name: [1] * topic.num_partitions for topic in missing}
        return SimpleNamespace(topic_errors=[(topic.name, self.codes.get("create", 0), None) for topic in missing])

    async def create_by_asking(self, names: list[str]) -> None:
        self.steps.append("asked")
        self.topics |= {name: [1] for name in names}

    async def describe_configs(self, asked: list[Any]) -> Any:
        if self.config_error is not None:
            raise self.config_error
        entries = [("cleanup.policy", "delete")]
        return [SimpleNamespace(resources=[(self.config_code, "", 2, one.name, entries) for one in asked])]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(admin, "KafkaAdmin", lambda **_: cluster)
    monkeypatch.setattr(admin, "NEW_TOPIC_SECONDS", 0)
    return cluster


@pytest.fixture
def broker(cluster: Cluster) -> Broker:  # noqa: ARG001 - the broker asks it
    settings = RelaySettings(
        database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1", kafka_timeout_seconds=0.5
    )
    return Broker(settings)


async def test_check_is_repeated_once_with_a_new_connection(broker: Broker, cluster: Cluster) -> None:
    """The first connection may be older than the broker's restart."""
    cluster.failures = [OSError("gone")]
    await broker.check()
    assert cluster.steps == ["start", "close", "start"]
    cluster.failures = [OSError("gone"), OSError("gone")]
    with pytest.raises(BrokerFailed):
        await broker.check()
    assert cluster.steps[-1] == "close"


@pytest.mark.parametrize(
    "call",
    [
        lambda broker: broker.check(),
        lambda broker: broker.partitions(),
        lambda broker: broker.declare("orders.v1-again"),
        lambda broker: broker.look_at_topics(4, None, 0.5),
    ],
    ids=["check", "partitions", "declare", "look"],
)
async def test_one_caller_at_a_time_uses_the_connection(
    broker: Broker, cluster: Cluster, call: Callable[[Broker], Awaitable[object]]
) -> None:
    """One that fails closes it."""
    cluster.topics = {EVENTS: [1]}
    await asyncio.gather(call(broker), call(broker))
    assert cluster.concurrent_max == 1
    assert cluster.steps == ["start"]


async def test_only_missing_topics_are_created_each_with_an_explicit_policy(broker: Broker, cluster: Cluster) -> None:
    cluster.topics = {POSITIONS: [1] * 4}
    topics, created = await broker.look_at_topics(4, None, 0.5)
    assert set(topics) == {EVENTS, POSITIONS, WATERMARKS}
    assert list(created) == [EVENTS, WATERMARKS]
    made = {topic.name: (topic.num_partitions, topic.topic_configs) for topic in cluster.created}
    assert made == {EVENTS: (4, {"cleanup.policy": "delete"}), WATERMARKS: (1, {"cleanup.policy": "compact"})}


async def test_recorded_number_of_partitions_precedes_that_of_the_settings(broker: Broker, cluster: Cluster) -> None:
    await broker.look_at_topics(16, 8, 0.5)
    made = {topic.name: (topic.num_partitions, topic.topic_configs) for topic in cluster.created}
    assert made[EVENTS] == (8, {"cleanup.policy": "delete"})
    assert made[POSITIONS] == (16, {"cleanup.policy": "compact"})


async def test_topic_that_another_replica_creates_meanwhile_is_no_failure(broker: Broker, cluster: Cluster) -> None:
    cluster.codes = {"create": EXISTS}
    _, created = await broker.look_at_topics(4, None, 0.5)
    assert list(created) == []


async def test_topic_that_cannot_be_created_is_a_failure(broker: Broker, cluster: Cluster) -> None:
    cluster.codes = {"create": INVALID_REPLICATION}
    with pytest.raises(BrokerFailed, match="can't be created"):
        await broker.look_at_topics(4, None, 0.5)
    assert not broker.topics_seen


async def test_new_topics_are_waited_for_until_the_broker_knows_them(broker: Broker, cluster: Cluster) -> None:
    cluster.hidden = 3
    topics, _ = await broker.look_at_topics(4, None, 0.5)
    assert set(topics) == {EVENTS, POSITIONS, WATERMARKS}


async def test_topic_that_may_not_be_seen_is_a_failure(broker: Broker, cluster: Cluster) -> None:
    """It is not taken for a missing one."""
    cluster.codes = {EVENTS: NO_RIGHT}
    with pytest.raises(BrokerFailed, match="can't be seen"):
        await broker.look_at_topics(4, None, 0.5)


async def test_broker_without_a_controller_creates_the_topics_that_it_is_asked_about(
    broker: Broker, cluster: Cluster
) -> None:
    cluster.controller = -1
    _, created = await broker.look_at_topics(4, None, 0.5)
    assert list(created) == [EVENTS, POSITIONS, WATERMARKS]
    assert "asked" in cluster.steps


@pytest.mark.parametrize(
    ("code", "error", "config"),
    [
        (0, None, {"cleanup.policy": "delete"}),
        (NO_RIGHT, None, None),
        (0, IncompatibleBrokerVersion(), {}),
    ],
    ids=["readable", "without the right", "without settings"],
)
async def test_topic_s_settings_are_unknown_without_the_right_to_read_them(
    broker: Broker, cluster: Cluster, code: int, error: Exception | None, config: dict[str, str] | None
) -> None:
    cluster.config_code, cluster.config_error = code, error
    topics, _ = await broker.look_at_topics(4, None, 0.5)
    assert topics[EVENTS].config == config


async def test_topic_s_settings_that_cannot_be_read_now_are_a_failure(broker: Broker, cluster: Cluster) -> None:
    cluster.config_code = TIMED_OUT
    with pytest.raises(BrokerFailed, match="can't be read"):
        await broker.look_at_topics(4, None, 0.5)


async def test_replication_of_a_topic_is_that_of_its_worst_partition(broker: Broker, cluster: Cluster) -> None:
    cluster.topics = {EVENTS: [3, 1, 2]}
    topics, _ = await broker.look_at_topics(4, None, 0.5)
    assert topics[EVENTS].replication == 1


async def test_topics_are_looked_at_once_until_they_are_forgotten(broker: Broker, cluster: Cluster) -> None:
    for _ in range(2):
        await broker.ensure_topics(4)
    cluster.topics = {}
    await broker.ensure_topics(4)
    assert cluster.topics == {}
    broker.topics_seen = False
    await broker.ensure_topics(4)
    assert set(cluster.topics) == {EVENTS, POSITIONS, WATERMARKS}
