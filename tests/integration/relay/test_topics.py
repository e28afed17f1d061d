"""Wrong topics are refused by name, with the command that fixes them; then the relay continues."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewPartitions
from structlog.testing import capture_logs

from services.relay import api
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.records import partitions
from services.relay.kafka.topics import TopicsRefused
from services.relay.process import Relay
from services.relay.publishing.bootstrap import bootstrap
from shared.postgres import Session
from tests.infrastructure.waiting import eventually
from tests.integration.relay.own_broker import OwnBroker
from tests.integration.relay.world import Event, World, expected, identity, order_in, write

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1"


@asynccontextmanager
async def administering(kafka: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def check(relay: Relay, name: str) -> str | None:
    """What /readyz says of this check, None if it is fine."""
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


def commands(refusal: str) -> list[list[str]]:
    """The command lines of Kafka's tools that a refusal names."""
    return [line.split() for line in re.findall(r"kafka-\w+\.sh [^;(]*", refusal)]


async def run(command: list[str], kafka: str) -> None:
    """Do what one of Kafka's tools does that an operator copies the line of; the tools are no part of the broker."""
    tool, *words = command
    options = dict(itertools.pairwise(words))
    assert options["--bootstrap-server"] == kafka
    assert "--alter" in words
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    if tool == "kafka-topics.sh":
        number = NewPartitions(options["--topic"], int(options["--partitions"]))
        await asyncio.to_thread(admin.create_partitions([number])[number.topic].result, 10)
        return
    assert tool == "kafka-configs.sh"
    assert options["--entity-type"] == "topics"
    name, _, value = options["--add-config"].partition("=")
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, options["--entity-name"], incremental_configs=[entry])
    await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result, 10)


async def declare(world: World, *topics: NewTopic) -> None:
    async with administering(world.kafka) as admin:
        response = await admin.create_topics(list(topics))
        assert not [error for error in response.topic_errors if error[1]]


def topic(world: World, kind: str = "", number: int = 4, **config: str) -> NewTopic:
    name = world.topic + (f".{kind}" if kind else "")
    return NewTopic(name, number, 1, topic_configs={key.replace("_", "."): value for key, value in config.items()})


@pytest.mark.real_broker
async def test_emptied_kafka_with_auto_created_topics_is_fixed_by_the_named_commands(
    world: World, lavish: OwnBroker
) -> None:
    """Without an event under way: nothing is published that could fail."""
    world = replace(world, kafka=lavish.address)
    before, after = ([Event(order_in(shard), 1) for shard in range(4)] for _ in range(2))
    async with world.relay(kafka_timeout_seconds=2) as relay:
        await write(world.connection, before)
        await world.until_sent(4)
        lavish.kill()
        lavish.empty()
        await asyncio.to_thread(lavish.start)
        foreign = AIOKafkaConsumer(
            world.topic, f"{world.topic}.positions", bootstrap_servers=lavish.address, group_id=None
        )
        await foreign.start()  # has created them if the relay has not
        try:
            await eventually(lambda: stands(relay), 30, "something that an operator has to mend")
            # The relay may have been faster than the foreign client: then its topics are right, and empty.
            for command in commands(await check(relay, "topics") or ""):
                await run(command, world.kafka)
            await eventually(lambda: names_bootstrap(relay), 30, "shards that wait for a bootstrap")
            assert await bootstrap(world.settings()) == 0
            await write(world.connection, after)
            await world.until_sent(8, seconds=30)
            await ready(relay)
        finally:
            await foreign.stop()
    async with world.reader() as reader:
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(after))


async def stands(relay: Relay) -> str | None:
    return await check(relay, "topics") or await check(relay, "shards")


async def names_bootstrap(relay: Relay) -> bool:
    told = await check(relay, "shards")
    return told is not None and told.count("python -m services.relay bootstrap") == 4


@pytest.mark.real_broker
async def test_topics_created_by_another_client_are_refused_until_fixed(world: World, lavish: OwnBroker) -> None:
    world = replace(world, kafka=lavish.address)
    foreign = AIOKafkaConsumer(f"{world.topic}.positions", bootstrap_servers=lavish.address, group_id=None)
    await foreign.start()
    await foreign.stop()
    event = Event(order_in(3), 1)
    with capture_logs() as logs:
        async with world.relay(kafka_timeout_seconds=2) as relay:
            await write(world.connection, [event])
            refused = await unready(relay, "topics")
            assert f"{world.topic}.positions has 1 partition and needs 4, one for each shard" in refused
            assert f"{world.topic}.positions has cleanup.policy=delete and needs compact" in refused
            await eventually(lambda: check(relay, "shards"), 20, "unready shards")
            assert refused in str(await check(relay, "shards"))
            assert await bootstrap(world.settings()) == 1
            for command in commands(refused):
                await run(command, world.kafka)
            await world.until_sent(1, seconds=30)
            await ready(relay)
    assert {"topics.refused", "shard.refused", "bootstrap.refused", "topics.accepted"} <= {
        entry["event"] for entry in logs
    }
    assert next(entry for entry in logs if entry["event"] == "bootstrap.refused")["detail"] == refused


async def test_topic_with_fewer_partitions_is_refused_without_traffic(
    real_world: World,
) -> None:
    world = real_world
    async with world.relay():
        await world.until_held()
    await delete(world)
    await eventually(lambda: gone(world), 20, "a topic that is gone")
    await declare(world, topic(world, number=1))
    async with world.relay() as relay:
        assert "has 1 partition and had 4: kafka-topics.sh" in await unready(relay, "topics")
        assert await check(relay, "broker") is None
        assert await bootstrap(world.settings()) == 1, "the settings ask for four"
        assert await bootstrap(world.settings(topic_partitions=1)) == 0
        await write(world.connection, [Event(order_in(0), 1)])
        await world.until_sent(1)
        await ready(relay)
        assert relay.broker.view.partitions == 1


async def delete(world: World, kind: str = "") -> None:
    async with administering(world.kafka) as admin:
        await admin.delete_topics([topic(world, kind).name])


async def add_partitions(world: World) -> None:
    await run(
        ["kafka-topics.sh", "--bootstrap-server", world.kafka, "--alter", "--topic", world.topic, "--partitions", "8"],
        world.kafka,
    )


async def gone(world: World) -> bool:
    async with administering(world.kafka) as admin:
        return world.topic not in await admin.list_topics()


@pytest.mark.parametrize(
    ("kind", "number", "policy", "told"),
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
    real_world: World, kind: str, number: int, policy: str, told: str
) -> None:
    world = real_world
    await declare(world, topic(world, kind, number, cleanup_policy=policy))
    await write(world.connection, [Event(order_in(shard), 1) for shard in range(4)])
    async with world.relay() as relay:
        refused = await unready(relay, "topics")
        assert told in refused
        assert await world.statuses() == {"PENDING": 4}
        for command in commands(refused):
            if "--delete" in command:
                await delete(world, kind)
            else:
                await run(command, world.kafka)
        await world.until_sent(4)
        await ready(relay)


async def test_topic_changed_without_traffic_is_noticed(real_world: World) -> None:
    world = real_world
    async with world.relay() as relay:
        await world.until_held()
        await ready(relay)
        await delete(world, "positions")
        await eventually(lambda: names_bootstrap(relay), 20, "shards that wait for a bootstrap")
        assert await bootstrap(world.settings()) == 0
        await ready(relay)


async def test_topics_are_created_with_an_explicit_policy_and_doubts_are_reported(real_world: World) -> None:
    world = real_world
    await declare(world, topic(world, number=2, min_insync_replicas="2"))
    async with world.relay() as relay:

        async def doubts() -> tuple[str, ...]:
            return relay.broker.view.doubts

        many, few = await eventually(doubts, 20, "doubts")
        assert "has 2 partitions, fewer than RELAY_TOPIC_PARTITIONS (4)" in few
        assert "has min.insync.replicas=2 and 1 replica, so it can never have as many in sync" in many
        assert await check(relay, "topics") is None
        assert api.details(relay.broker, relay.publishers)()["topics"] == {"partitions": 2, "doubts": (many, few)}
    assert await configured(world, f"{world.topic}.positions") == ("compact", True)


async def test_the_topic_of_events_is_created_with_its_policy(real_world: World) -> None:
    async with real_world.relay():
        await real_world.until_held()
    assert await configured(real_world, real_world.topic) == ("delete", True)


async def configured(world: World, name: str) -> tuple[str, bool]:
    """The clean-up policy of a topic, and whether it is the topic's own and not the broker's default."""
    admin = AdminClient({"bootstrap.servers": world.kafka, "log_level": 0})
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    configs = await asyncio.to_thread(admin.describe_configs([resource])[resource].result, 10)
    entry = configs["cleanup.policy"]
    return entry.value, not entry.is_default


async def test_added_partitions_move_each_order_once(real_world: World) -> None:
    """Two replicas, shards in a group and alone, with and without an event under way."""
    world = real_world
    orders = [order_in(number % 4) for number in range(40)]
    events: list[Event] = []

    async def more(count: int) -> None:
        for _ in range(count):
            new = [Event(order, 1 + len(events) // len(orders)) for order in orders]
            events.extend(new)
            await write(world.connection, new)
            await world.until_sent(len(events))

    with capture_logs() as logs:
        async with world.relay(replica="a") as first, world.relay(replica="b") as second:
            await world.until_held()
            await more(3)
            await add_partitions(world)
            await more(1)  # who has not noticed yet goes on as before

            async def noticed() -> bool:
                return {relay.broker.view.partitions for relay in (first, second)} == {8}

            await eventually(noticed, 20, "two replicas that know of the added partitions")
            await more(3)
            await world.connection.execute(TERMINATE, "relay shard%")  # each shard is taken over once more
            await more(2)
            async with world.reader() as reader:
                records = await reader.to_the_end()
    assert len(records) == len(events)
    assert [entry["now"] for entry in logs if entry["event"] == "topic.partitions_changed"] == [8, 8]
    for order in orders:
        places = places_of(records, str(order))
        old, new = (partitions([str(order).encode()], count)[0] for count in (4, 8))
        moves = [place for before, place in itertools.pairwise(places) if place != before]
        assert places[0] == old
        assert places[-1] == new
        assert moves == ([new] if old != new else [])


def places_of(records: list[Any], order: str) -> list[int]:
    """The partitions of an order's events, in sequence."""
    own = sorted((identity(record), record.partition) for record in records if record.key.decode() == order)
    return [partition for _, partition in own]


async def test_a_watermark_names_partitions_that_were_added(real_world: World) -> None:
    world = real_world
    async with world.relay(watermark_interval_seconds=0.1), world.reader(f"{world.topic}.watermarks") as reader:
        await reader.until(1)
        await add_partitions(world)

        async def named() -> bool:
            await reader.more()
            return len(json.loads(reader.records[-1].value)["partitions"]) == 8

        await eventually(named, 20, "a watermark with the added partitions")


async def test_replica_that_takes_a_shard_over_uses_the_recorded_partitions(real_world: World) -> None:
    """The record counts, and not what a replica happened to see last."""
    world = real_world
    async with world.relay() as relay:
        await world.until_held()
        watch = relay._watch
        async with watch._turn:  # this replica looks no more
            await add_partitions(world)
            assert relay.broker.view.partitions == 4
            await world.connection.execute("UPDATE relay.topics SET partitions = 8")
        await watch.ensure()
        assert relay.broker.view.partitions == 8
