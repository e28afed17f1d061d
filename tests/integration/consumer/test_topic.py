"""The consumer waits for a topic that is not there and never has it created; one that was made again is read anew."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import Platform, Process, an_order, platform, publish
from tests.integration.relay.own_broker import OwnBroker
from tests.integration.relay.world import World


async def names(consumer: Process, topic: str) -> bool:
    """Whether the consumer is unready and says that this topic is not there."""
    try:
        answer = await consumer.call("GET", "/readyz")
    except aiohttp.ClientConnectionError:
        return False
    return answer.status == 503 and f"the topic {topic} is not there" in str(answer.body)


@pytest.mark.real_broker
async def test_a_topic_that_is_not_there_is_waited_for_and_not_created(
    world: World, lavish: OwnBroker, platform_database: Database, tmp_path: Path, reaper: Reaper
) -> None:
    world = replace(world, kafka=lavish.address)
    async with platform(platform_database, world, "http://127.0.0.1:9", tmp_path, reaper) as there:
        consumer = there.start()
        await eventually(lambda: names(consumer, world.topic), 30, "an unready consumer")
        admin = AdminClient({"bootstrap.servers": lavish.address, "log_level": 0})
        assert not [name for name in admin.list_topics(timeout=10).topics if name.startswith(world.topic)]
        # Without looking for it first: that would have this broker create it.
        await asyncio.to_thread(admin.create_topics([NewTopic(world.topic, 4, 1)])[world.topic].result, 10)
        await consumer.ready()


@pytest.mark.real_broker
async def test_a_topic_that_was_made_again_is_read_from_its_beginning(
    consuming: Platform, world: World, source: random.Random
) -> None:
    before = [event for _ in range(20) for event in an_order(source)]
    after = [event for _ in range(5) for event in an_order(source)]
    await publish(world, before)
    consuming.start()
    await consuming.until_equal(before)
    admin = AdminClient({"bootstrap.servers": world.kafka, "log_level": 0})
    await asyncio.to_thread(admin.delete_topics([world.topic])[world.topic].result, 10)
    await publish(world, after)
    await consuming.until_equal([*before, *after])
