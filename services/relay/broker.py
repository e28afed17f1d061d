"""Kafka as a whole: is it there, and are its topics."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NoError, TopicAlreadyExistsError, for_code

from services.relay.clients import BrokerFailed, bounded, started
from services.relay.settings import RelaySettings

log = structlog.get_logger()

# Both tries end before /readyz answers; the client's own default of 40 s suits no caller of ours.
CHECK_SECONDS = 0.75
CLOSE_SECONDS = 0.5


class Broker:
    """The cluster and the two topics that the relay needs of it."""

    def __init__(self, settings: RelaySettings, shards: int) -> None:
        self._settings = settings
        self._shards = shards
        self._admin: AIOKafkaAdminClient | None = None
        self._have_topics = False
        self._turn = asyncio.Lock()

    async def check(self) -> None:
        """Raise BrokerFailed unless a broker answers now."""
        async with self._turn:
            try:
                await self._ask()
            except BrokerFailed:
                await self._ask()  # the connection may be left over from before the broker's restart

    async def _ask(self) -> None:
        async with self._client(CHECK_SECONDS / 2) as admin:
            await admin.describe_cluster()

    async def ensure_topics(self) -> None:
        """Create what is missing, once in a process's life. Raises BrokerFailed.

        Explicitly and before any producer asks for them: a broker that creates topics on its own would not make the
        positions compacted.
        """
        async with self._turn:
            if self._have_topics:
                return
            async with self._client(self._settings.kafka_timeout_seconds) as admin:
                await self._create_missing(admin, self._own_topics())
            self._have_topics = True

    async def declare(self, topic: str) -> None:
        """Create a further topic for events unless it is there. Raises BrokerFailed."""
        settings = self._settings
        async with self._turn, self._client(settings.kafka_timeout_seconds) as admin:
            await self._create_missing(admin, [NewTopic(topic, settings.topic_partitions, settings.topic_replication)])

    async def partitions(self) -> list[int]:
        """Return the partitions that the topic has now. Raises BrokerFailed."""
        async with self._turn, self._client(self._settings.kafka_timeout_seconds) as admin:
            (description,) = await admin.describe_topics([self._settings.topic])
            return sorted(partition["partition"] for partition in description["partitions"])

    def forget_topics(self) -> None:
        """Look for the topics again at the next take-over."""
        self._have_topics = False

    async def close(self) -> None:
        """Close the connection."""
        admin, self._admin = self._admin, None
        if admin is not None:
            with suppress(BrokerFailed):
                async with bounded(CLOSE_SECONDS):
                    await admin.close()

    @asynccontextmanager
    async def _client(self, seconds: float) -> AsyncIterator[AIOKafkaAdminClient]:
        try:
            async with bounded(seconds):
                if self._admin is None:
                    self._admin = AIOKafkaAdminClient(
                        **self._settings.kafka_options(),
                        client_id=self._settings.replica,
                        request_timeout_ms=int(self._settings.kafka_timeout_seconds * 1000),
                    )
                    await started(self._admin)
                yield self._admin
        except BaseException:
            await self.close()
            raise

    def _own_topics(self) -> list[NewTopic]:
        settings = self._settings
        return [
            NewTopic(settings.topic, settings.topic_partitions, settings.topic_replication),
            NewTopic(
                settings.position_topic,
                self._shards,
                settings.topic_replication,
                topic_configs={"cleanup.policy": "compact"},
            ),
            # One key: a reader that comes late finds the newest one.
            NewTopic(
                settings.watermark_topic,
                1,
                settings.topic_replication,
                topic_configs={"cleanup.policy": "compact"},
            ),
        ]

    async def _create_missing(self, admin: AIOKafkaAdminClient, wanted: Sequence[NewTopic]) -> None:
        there = set(await admin.list_topics())
        missing = [topic for topic in wanted if topic.name not in there]
        if not missing:
            return
        cluster = await admin.describe_cluster()
        if cluster.get("controller_id") not in {broker["node_id"] for broker in cluster["brokers"]}:
            # The embedded broker has nobody to ask for a topic, and creates what it is asked about.
            await admin.describe_topics([topic.name for topic in missing])
            return
        response = await admin.create_topics(missing)
        for name, code, *_ in response.topic_errors:
            _created(name, for_code(code))


def _created(name: str, error: Any) -> None:
    if error is NoError:
        log.info("topic created", topic=name)
    elif error is not TopicAlreadyExistsError:
        raise BrokerFailed(f"topic {name} can't be created: {error.__name__}")
