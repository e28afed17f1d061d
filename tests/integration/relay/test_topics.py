"""Wrong topics are refused by name, with the command that fixes them; then the relay continues."""

import asyncio
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import NewTopic
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from structlog.testing import capture_logs

from services.relay import api
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.topics import TopicsRefused
from services.relay.process import Relay
from services.relay.publishing.bootstrap import bootstrap
from shared.postgres.connections import Session
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.pipeline import Event, Pipeline, expected, identity, order_in, write
from tests.infrastructure.waiting import eventually
from tests.integration.relay.kafka_tools import administering, commands, run


async def check(relay: Relay, name: str) -> str | None:
    """Return the text of this check in /readyz; None if it is ok."""
    async with Session(relay._pool._settings, "relay readiness") as readiness:
        try:
            await api.checks(readiness, relay.broker, relay.publishers)[name]()
        except (BrokerFailed, TopicsRefused, api.NotPublishing) as error:
            return str(error)
        return None


async def unready(relay: Relay, name: str, seconds: float = 20) -> str:
    return str(await eventually(lambda: check(relay, name), seconds, f"an unready check {name}"))


async def ready(relay: Relay, seconds: float = 30) -> None:
    async def all_fine() -> bool:
        return not any([await check(relay, name) for name in ("broker", "topics", "shards")])

    await eventually(all_fine, seconds, "a relay that is ready")


async def declare(pipeline: Pipeline, *topics: NewTopic) -> None:
    async with administering(pipeline.kafka) as admin:
        response = await admin.create_topics(list(topics))
        assert not [error for error in response.topic_errors if error[1]]


def topic(pipeline: Pipeline, kind: str = "", number: int = 4, **config: str) -> NewTopic:
    name = pipeline.topic + (f".{kind}" if kind else "")
    return NewTopic(name, number, 1, topic_configs={key.replace("_", "."): value for key, value in config.items()})


@pytest.mark.real_broker
async def test_emptied_kafka_with_auto_created_topics_is_fixed_by_the_named_commands(
    pipeline: Pipeline, lavish: OwnBroker
) -> None:
    """No event is pending, so no publication can fail."""
    pipeline = replace(pipeline, kafka=lavish.address)
    before, after = ([Event(order_in(shard), 1) for shard in range(4)] for _ in range(2))
    async with pipeline.relay(kafka_timeout_seconds=2) as relay:
        await write(pipeline.connection, before)
        await pipeline.until_sent(4)
        lavish.kill()
        lavish.empty()
        await asyncio.to_thread(lavish.start)
        foreign = AIOKafkaConsumer(
            pipeline.topic, f"{pipeline.topic}.positions", bootstrap_servers=lavish.address, group_id=None
        )
        await foreign.start()  # creates the topics if the relay has not
        try:
            await eventually(lambda: stands(relay), 30, "a state that an operator must fix")
            # The relay may have been faster than the foreign client: then its topics are correct and empty.
            for command in commands(await check(relay, "topics") or ""):
                await run(command, pipeline.kafka)
            await eventually(lambda: names_bootstrap(relay), 30, "shards that wait for a bootstrap")
            assert await bootstrap(pipeline.settings()) == 0
            await write(pipeline.connection, after)
            await pipeline.until_sent(8, seconds=30)
            await ready(relay)
        finally:
            await foreign.stop()
    async with pipeline.reader() as reader:
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(after))


async def stands(relay: Relay) -> str | None:
    return await check(relay, "topics") or await check(relay, "shards")


async def names_bootstrap(relay: Relay) -> bool:
    detail = await check(relay, "shards")
    return detail is not None and detail.count("python -m services.relay bootstrap") == 4


@pytest.mark.real_broker
async def test_topics_created_by_another_client_are_refused_until_fixed(pipeline: Pipeline, lavish: OwnBroker) -> None:
    pipeline = replace(pipeline, kafka=lavish.address)
    foreign = AIOKafkaConsumer(f"{pipeline.topic}.positions", bootstrap_servers=lavish.address, group_id=None)
    await foreign.start()
    await foreign.stop()
    event = Event(order_in(3), 1)
    with capture_logs() as logs:
        async with pipeline.relay(kafka_timeout_seconds=2) as relay:
            await write(pipeline.connection, [event])
            refused = await unready(relay, "topics")
            assert f"{pipeline.topic}.positions has 1 partition and needs 4, one for each shard" in refused
            assert f"{pipeline.topic}.positions has cleanup.policy=delete and needs compact" in refused
            await eventually(lambda: check(relay, "shards"), 20, "unready shards")
            assert refused in str(await check(relay, "shards"))
            assert await bootstrap(pipeline.settings()) == 1
            for command in commands(refused):
                await run(command, pipeline.kafka)
            await pipeline.until_sent(1, seconds=30)
            await ready(relay)
    assert {"topics.refused", "shard.refused", "bootstrap.refused", "topics.accepted"} <= {
        entry["event"] for entry in logs
    }
    assert next(entry for entry in logs if entry["event"] == "bootstrap.refused")["detail"] == refused


async def test_topic_with_fewer_partitions_is_refused_without_traffic(
    real_pipeline: Pipeline,
) -> None:
    pipeline = real_pipeline
    async with pipeline.relay():
        await pipeline.until_held()
    await delete(pipeline)
    await eventually(lambda: gone(pipeline), 20, "a topic that is gone")
    await declare(pipeline, topic(pipeline, number=1))
    async with pipeline.relay() as relay:
        assert "has 1 partition and had 4: kafka-topics.sh" in await unready(relay, "topics")
        assert await check(relay, "broker") is None
        assert await bootstrap(pipeline.settings()) == 1, "the settings ask for four"
        assert await bootstrap(pipeline.settings(topic_partitions=1)) == 0
        await write(pipeline.connection, [Event(order_in(0), 1)])
        await pipeline.until_sent(1)
        await ready(relay)
        assert relay.broker.view.partitions == 1


async def delete(pipeline: Pipeline, kind: str = "") -> None:
    async with administering(pipeline.kafka) as admin:
        await admin.delete_topics([topic(pipeline, kind).name])


async def gone(pipeline: Pipeline) -> bool:
    async with administering(pipeline.kafka) as admin:
        return pipeline.topic not in await admin.list_topics()


@pytest.mark.parametrize(
    ("kind", "number", "policy", "detail"),
    [
        ("", 4, "compact", "has cleanup.policy=compact and needs delete"),
        ("", 4, "compact,delete", "has cleanup.policy=compact,delete and needs delete"),
        ("positions", 4, "delete", "has cleanup.policy=delete and needs compact"),
        ("positions", 4, "compact,delete", "has cleanup.policy=compact,delete and needs compact"),
        ("positions", 3, "compact", "has 3 partitions and needs 4"),
        ("positions", 5, "compact", "has 5 partitions and needs 4"),
    ],
)
async def test_wrong_topic_is_refused_and_waiting_events_are_published_once_fixed(
    real_pipeline: Pipeline, kind: str, number: int, policy: str, detail: str
) -> None:
    pipeline = real_pipeline
    await declare(pipeline, topic(pipeline, kind, number, cleanup_policy=policy))
    await write(pipeline.connection, [Event(order_in(shard), 1) for shard in range(4)])
    async with pipeline.relay() as relay:
        refused = await unready(relay, "topics")
        assert detail in refused
        assert await pipeline.statuses() == {"PENDING": 4}
        for command in commands(refused):
            if "--delete" in command:
                await delete(pipeline, kind)
            else:
                await run(command, pipeline.kafka)
        await pipeline.until_sent(4)
        await ready(relay)


async def test_topic_changed_without_traffic_is_noticed(real_pipeline: Pipeline) -> None:
    pipeline = real_pipeline
    async with pipeline.relay() as relay:
        await pipeline.until_held()
        await ready(relay)
        await delete(pipeline, "positions")
        await eventually(lambda: names_bootstrap(relay), 20, "shards that wait for a bootstrap")
        assert await bootstrap(pipeline.settings()) == 0
        await ready(relay)


async def test_topics_are_created_with_an_explicit_policy_and_doubts_are_reported(real_pipeline: Pipeline) -> None:
    pipeline = real_pipeline
    await declare(pipeline, topic(pipeline, number=2, min_insync_replicas="2"))
    async with pipeline.relay() as relay:

        async def doubts() -> tuple[str, ...]:
            return relay.broker.view.doubts

        many, few = await eventually(doubts, 20, "doubts")
        assert "has 2 partitions, fewer than RELAY_TOPIC_PARTITIONS (4)" in few
        assert "has min.insync.replicas=2 and 1 replica, so it can never have as many in sync" in many
        assert await check(relay, "topics") is None
        assert api.details(relay.broker, relay.publishers)()["topics"] == {"partitions": 2, "doubts": (many, few)}
    assert await configured(pipeline, f"{pipeline.topic}.positions") == ("compact", True)


async def test_topics_with_one_replica_are_used_and_doubted_unless_the_settings_ask_for_it(
    real_pipeline: Pipeline,
) -> None:
    with capture_logs() as logs:
        async with real_pipeline.relay(topic_replication=None) as relay:
            await real_pipeline.until_held()

            async def doubts() -> tuple[str, ...]:
                return relay.broker.view.doubts

            found = await eventually(doubts, 20, "doubts")
            assert await check(relay, "topics") is None
    name = real_pipeline.topic
    assert [doubt.split()[0] for doubt in found] == [name, f"{name}.positions", f"{name}.watermarks"]
    assert all("replication factor of 1, below 3: one lost broker can lose events" in doubt for doubt in found)
    assert [line["detail"] for line in logs if line["event"] == "topic.doubtful"] == list(found)


async def test_the_topic_of_events_is_created_with_its_policy(real_pipeline: Pipeline) -> None:
    async with real_pipeline.relay():
        await real_pipeline.until_held()
    assert await configured(real_pipeline, real_pipeline.topic) == ("delete", True)


async def configured(pipeline: Pipeline, name: str) -> tuple[str, bool]:
    """Return a topic's clean-up policy, and whether it is set for the topic and not by the broker's default."""
    admin = AdminClient({"bootstrap.servers": pipeline.kafka, "log_level": 0})
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    configs = await asyncio.to_thread(admin.describe_configs([resource])[resource].result, 10)
    entry = configs["cleanup.policy"]
    return entry.value, not entry.is_default
