"""The topics that the relay refuses, those about which it only warns, and the commands for operators."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.relay.kafka.admin import Broker
from services.relay.kafka.topics import Requirements, Topic, TopicView
from services.relay.publishing.topic_watch import TopicWatch
from services.relay.settings import RelaySettings

SHARDS = 4
TOOL = "--bootstrap-server nowhere:1"


def settings(topic_replication: int | None = 1, **changes: Any) -> RelaySettings:
    chosen = {"topic_replication": topic_replication, **changes}
    return RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1", **chosen)


def topics(**changes: Topic) -> dict[str, Topic]:
    """Return the topics as the relay creates them, except the given ones (by the last part of their name)."""
    right = {
        "events": Topic("orders.v1", 4, 1, {"cleanup.policy": "delete"}),
        "positions": Topic("orders.v1.positions", SHARDS, 1, {"cleanup.policy": "compact"}),
        "watermarks": Topic("orders.v1.watermarks", 1, 1, {"cleanup.policy": "compact"}),
    }
    return {topic.name: topic for topic in (right | changes).values()}


def refusals(partitions: int = 4, **changes: Topic) -> list[str]:
    return Requirements(settings(), SHARDS).refusals(topics(**changes), partitions)


def doubts(of: RelaySettings | None = None, **changes: Topic) -> list[str]:
    return Requirements(of or settings(), SHARDS).doubts(topics(**changes))


def events(number: int = 4, replication: int = 1, **config: str) -> Topic:
    policy = {"cleanup.policy": "delete"} | {name.replace("_", "."): value for name, value in config.items()}
    return Topic("orders.v1", number, replication, policy)


def test_topics_created_by_the_relay_are_accepted_without_doubts() -> None:
    assert refusals() == []
    assert doubts() == []
    assert refusals(events=events(8)) == [], "partitions that were added"


@pytest.mark.parametrize("policy", ["compact", "compact,delete", "delete,compact"])
def test_events_may_only_be_deleted_by_time(policy: str) -> None:
    (refusal,) = refusals(events=events(cleanup_policy=policy))
    assert refusal.startswith(f"orders.v1 has cleanup.policy={policy} and needs delete")
    assert refusal.endswith(
        f"kafka-configs.sh {TOOL} --alter --entity-type topics --entity-name orders.v1 "
        "--add-config cleanup.policy=delete"
    )


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
def test_positions_may_only_be_compacted(policy: str) -> None:
    (refusal,) = refusals(positions=Topic("orders.v1.positions", 4, 1, {"cleanup.policy": policy}))
    assert "--entity-name orders.v1.positions --add-config cleanup.policy=compact" in refusal


def test_positions_have_a_partition_for_each_shard_and_no_more() -> None:
    policy = {"cleanup.policy": "compact"}
    (few,) = refusals(positions=Topic("orders.v1.positions", 1, 1, policy))
    assert few == (
        "orders.v1.positions has 1 partition and needs 4, one for each shard: "
        f"kafka-topics.sh {TOOL} --alter --topic orders.v1.positions --partitions 4"
    )
    (many,) = refusals(positions=Topic("orders.v1.positions", 5, 1, policy))
    assert many.endswith(
        f"kafka-topics.sh {TOOL} --delete --topic orders.v1.positions; then python -m services.relay bootstrap"
    )


def test_the_topic_of_events_never_has_fewer_partitions_than_it_had() -> None:
    (refusal,) = refusals(8, events=events(4))
    assert f"has 4 partitions and had 8: kafka-topics.sh {TOOL} --alter --topic orders.v1 --partitions 8" in refusal
    assert "RELAY_TOPIC_PARTITIONS=4 python -m services.relay bootstrap" in refusal


def test_all_refusals_are_reported_together() -> None:
    wrong = Topic("orders.v1.positions", 1, 1, {"cleanup.policy": "delete"})
    assert len(refusals(events=events(1, cleanup_policy="compact"), positions=wrong)) == 4


def test_unreadable_topic_settings_are_a_doubt_and_no_refusal() -> None:
    hidden = Topic("orders.v1", 4, 1, None)
    assert refusals(events=hidden) == []
    assert doubts(events=hidden) == ["the settings of orders.v1 can't be read or checked: grant DESCRIBE_CONFIGS on it"]


def test_broker_without_topic_settings_raises_no_doubt() -> None:
    assert doubts(events=Topic("orders.v1", 4, 1, {})) == []


@pytest.mark.parametrize(
    ("of", "topic", "doubt"),
    [
        (
            settings(topic_replication=3),
            events(replication=1),
            "replication factor of 1, below RELAY_TOPIC_REPLICATION",
        ),
        (settings(None), events(replication=2, min_insync_replicas="2"), "replication factor of 2, below 3: one lost"),
        (settings(None), events(replication=3), "min.insync.replicas=1, so one broker that dies"),
        (settings(), events(replication=3, min_insync_replicas="1"), "min.insync.replicas=1, so one broker that dies"),
        (
            settings(),
            events(replication=2, min_insync_replicas="3"),
            "min.insync.replicas=3 and 2 replicas, so it can never",
        ),
        (settings(), events(2), "has 2 partitions, fewer than RELAY_TOPIC_PARTITIONS (4)"),
    ],
)
def test_doubts_name_the_topic_and_the_command(of: RelaySettings, topic: Topic, doubt: str) -> None:
    assert [found for found in doubts(of, events=topic) if found.startswith("orders.v1 ") and doubt in found]


def test_two_of_three_replicas_in_sync_are_not_doubted() -> None:
    safe = {"min.insync.replicas": "2"}
    positions = Topic("orders.v1.positions", SHARDS, 3, {"cleanup.policy": "compact", **safe})
    watermarks = Topic("orders.v1.watermarks", 1, 3, {"cleanup.policy": "compact", **safe})
    replicated = {"events": events(replication=3, min_insync_replicas="2"), "positions": positions}
    assert doubts(settings(None), **replicated, watermarks=watermarks) == []


@pytest.mark.parametrize("number", [1, 2])
def test_fewer_replicas_that_the_settings_ask_for_are_not_doubted(number: int) -> None:
    found = doubts(settings(number), events=events(replication=2))
    assert not [doubt for doubt in found if doubt.startswith("orders.v1 ") and "factor" in doubt]


def test_topics_are_created_with_the_brokers_replication_unless_a_number_is_set() -> None:
    for chosen, sent in ((None, -1), (3, 3)):
        created = Broker(settings(chosen))._own_topics(SHARDS, None)
        assert [topic.replication_factor for topic in created] == [sent] * 3


def test_the_policy_of_watermarks_is_doubted_only() -> None:
    wrong = Topic("orders.v1.watermarks", 1, 1, {"cleanup.policy": "delete"})
    assert refusals(watermarks=wrong) == []
    assert "orders.v1.watermarks has cleanup.policy=delete and needs compact" in doubts(watermarks=wrong)[0]


def test_commands_for_a_broker_with_credentials_name_the_config_file() -> None:
    secured = settings(
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username="relay",
        kafka_sasl_password="secret",
    )
    (refusal,) = Requirements(secured, SHARDS).refusals(topics(events=events(1)), 4)
    assert "--bootstrap-server nowhere:1 --command-config FILE --alter" in refusal
    assert "secret" not in refusal


def test_records_have_the_database_s_time_once_it_is_known() -> None:
    view = TopicView()
    view.clock.observe(datetime(2020, 1, 1, tzinfo=UTC))
    assert abs(view.milliseconds() - 1_577_836_800_000) < 60_000


@pytest.mark.parametrize(
    ("changes", "looks"),
    [
        ({}, False),
        ({"topics_seen": False}, True),
        ({"refused": "too few partitions"}, True),
        ({"recorded": 8}, True),
    ],
    ids=["nothing new", "not seen since a failure", "refused", "another number recorded"],
)
async def test_take_over_looks_at_the_topics_only_if_something_may_be_new(changes: dict[str, Any], looks: bool) -> None:
    async def recorded() -> int:
        return int(changes.get("recorded", 4))

    async def look(number: int) -> None:
        looked.append(number)
        broker.view.refused = None

    looked: list[int] = []
    broker = Broker(settings())
    broker.topics_seen = changes.get("topics_seen", True)
    broker.view.partitions, broker.view.refused = 4, changes.get("refused")
    connection: Any = None
    watch: Any = TopicWatch(settings(), broker, connection)
    watch._recorded, watch._look = recorded, look
    await watch.ensure()
    assert bool(looked) is looks
