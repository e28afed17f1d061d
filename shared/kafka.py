"""Clients of Kafka that never have a broker create a topic.

The library's clients ask for what they don't find in a way that makes a broker with `auto.create.topics.enable` create
it, with that broker's defaults: one partition and `cleanup.policy=delete`. The library has no setting against it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import aiokafka.client
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.metadata import MetadataRequest

# A client asks for metadata in a task of its own, which keeps the context that it was started in.
_may_create: ContextVar[bool] = ContextVar("may_create", default=True)


class KafkaProducer(AIOKafkaProducer):  # type: ignore[misc] # the library publishes no types
    """A producer whose topics have to exist."""

    async def start(self) -> None:
        """Connect to the cluster."""
        with _no_creation():
            await super().start()


class KafkaConsumer(AIOKafkaConsumer):  # type: ignore[misc] # as above
    """A consumer that waits for topics that don't exist."""

    async def start(self) -> None:
        """Connect to the cluster."""
        with _no_creation():
            await super().start()


class KafkaAdmin(AIOKafkaAdminClient):  # type: ignore[misc] # as above
    """An admin client that creates topics by `create_topics` only."""

    async def _get_cluster_metadata(self, topics: list[str] | None = None) -> Any:
        return await self._send_request(MetadataRequest(topics, allow_auto_topic_creation=False))

    async def create_by_asking(self, topics: list[str]) -> list[dict[str, Any]]:
        """Return the topics' descriptions from a broker that creates what it is asked for and takes no other request.

        That is the embedded broker of the local run.
        """
        metadata = await self._send_request(MetadataRequest(topics, allow_auto_topic_creation=True))
        described: list[dict[str, Any]] = metadata.to_object()["topics"]
        return described


@contextmanager
def _no_creation() -> Iterator[None]:
    token = _may_create.set(False)
    try:
        yield
    finally:
        _may_create.reset(token)


def _metadata_request(topics: list[str] | None = None) -> MetadataRequest:
    return MetadataRequest(topics, allow_auto_topic_creation=_may_create.get())


aiokafka.client.MetadataRequest = _metadata_request
