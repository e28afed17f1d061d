"""The consumer waits for a missing topic and never creates it; it reads a re-created topic from its start."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.infrastructure.databases import Database
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import Platform, Process, an_order, platform, publish


async def names(consumer: Process, topic: str) -> bool:
    """Return whether the consumer is unready and reports this topic as missing."""
    try:
        answer = await consumer.call("GET", "/readyz")
    except aiohttp.ClientConnectionError:
        return False
    return answer.status == 503 and f"the topic {topic} is not there" in str(answer.body)


@pytest.mark.real_broker
async def test_missing_topic_is_awaited_and_not_created(
    pipeline: Pipeline, lavish: OwnBroker, platform_database: Database, tmp_path: Path, reaper: Reaper
) -> None:
    pipeline = replace(pipeline, kafka=lavish.address)
    async with platform(platform_database, pipeline, "http://127.0.0.1:9", tmp_path, reaper) as there:
        consumer = there.start()
        await eventually(lambda: names(consumer, pipeline.topic), 30, "an unready consumer")
        admin = AdminClient({"bootstrap.servers": lavish.address, "log_level": 0})
        assert not [name for name in admin.list_topics(timeout=10).topics if name.startswith(pipeline.topic)]
        # Without a request for the topic: this broker would create it.
        await asyncio.to_thread(admin.create_topics([NewTopic(pipeline.topic, 4, 1)])[pipeline.topic].result, 10)
        await consumer.ready()


@pytest.mark.real_broker
async def test_a_topic_that_was_made_again_is_read_from_its_beginning(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    before = [event for _ in range(20) for event in an_order(source)]
    after = [event for _ in range(5) for event in an_order(source)]
    await publish(pipeline, before)
    consuming.start()
    await consuming.until_equal(before)
    admin = AdminClient({"bootstrap.servers": pipeline.kafka, "log_level": 0})
    await asyncio.to_thread(admin.delete_topics([pipeline.topic])[pipeline.topic].result, 10)
    await publish(pipeline, after)
    await consuming.until_equal([*before, *after])
