"""Executes the commands of Kafka's tools that a refusal names."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewPartitions

from tests.infrastructure.pipeline import Pipeline


@asynccontextmanager
async def administering(kafka: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


def commands(refusal: str) -> list[list[str]]:
    """Return the command lines of Kafka's tools in a refusal."""
    return [line.split() for line in re.findall(r"kafka-\w+\.sh [^;(]*", refusal)]


async def run(command: list[str], kafka: str) -> None:
    """Do the same as a command line of Kafka's tools; the tools themselves are not in the broker's jars."""
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


async def add_partitions(pipeline: Pipeline) -> None:
    await run(
        [
            "kafka-topics.sh",
            "--bootstrap-server",
            pipeline.kafka,
            "--alter",
            "--topic",
            pipeline.topic,
            "--partitions",
            "8",
        ],
        pipeline.kafka,
    )
