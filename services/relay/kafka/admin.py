"""The Kafka cluster: check that it answers, and create and describe its topics."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from services.relay.kafka.client import BrokerFailed, bounded
from services.relay.kafka.errors import describe
from services.relay.kafka.topics import COMPACT, DELETE, IN_SYNC_MIN, POLICY, Topic, TopicView
from services.relay.settings import RelaySettings
from shared.kafka import KafkaAdmin

log = structlog.get_logger()

# Both tries end before /readyz answers; the client's default of 40 s is too long for every caller.
CHECK_SECONDS = 0.75
CLOSE_SECONDS = 0.5
NEW_TOPIC_SECONDS = 0.02
BROKERS_DEFAULT = -1  # as a replication factor: the broker's default.replication.factor


class Broker:
    """The cluster and the relay's topics on it; `view` is what the process knows of the topics.

    `topics_seen`: false if the topics have to be looked for at the next take-over.
    """

    def __init__(self, settings: RelaySettings) -> None:
        self._settings = settings
        self._admin: KafkaAdmin | None = None
        self.topics_seen = False
        self.view = TopicView()
        self._turn = asyncio.Lock()

    async def check(self) -> None:
        """Raise BrokerFailed unless a broker answers now."""
        async with self._turn:
            try:
                await self._ask()
            except BrokerFailed:
                await self._ask()  # the connection may be older than the broker's restart

    async def _ask(self) -> None:
        async with self._client(CHECK_SECONDS / 2) as admin:
            await admin.describe_topics([])

    async def ensure_topics(self, shards: int) -> None:
        """Create the missing topics, unless they have been seen. Raises BrokerFailed."""
        if not self.topics_seen:
            await self.look_at_topics(shards, None, self._settings.kafka_timeout_seconds)

    async def look_at_topics(
        self, shards: int, partitions: int | None, seconds: float
    ) -> tuple[Mapping[str, Topic], Collection[str]]:
        """Create the topics that are missing, and return all of them as they are, and which were created.

        `shards`: how many partitions the topic of positions gets if it is missing; `partitions`: how many that of
        events, None for the number from the settings.
        They are created before any producer asks for them: a broker that creates topics itself would not make the
        positions compacted. Raises BrokerFailed.
        """
        async with self._turn:
            wanted = self._own_topics(shards, partitions)
            async with self._client(seconds) as admin:
                created = await self._create_missing(admin, wanted)
                # A broker learns of a new topic from the controller, a little later.
                while len(found := await seen(admin, [topic.name for topic in wanted])) < len(wanted):  # noqa: ASYNC110
                    await asyncio.sleep(NEW_TOPIC_SECONDS)
                topics = await described(admin, found)
            self.topics_seen = True
            return topics, created

    async def declare(self, topic: str) -> None:
        """Create a further topic for events unless it is there. Raises BrokerFailed."""
        settings = self._settings
        async with self._turn, self._client(settings.kafka_timeout_seconds) as admin:
            await self._create_missing(admin, [self._new(topic, settings.topic_partitions, DELETE)])

    async def partitions(self) -> list[int]:
        """Return the partitions that the topic has now. Raises BrokerFailed."""
        async with self._turn, self._client(self._settings.kafka_timeout_seconds) as admin:
            (description,) = await admin.describe_topics([self._settings.topic])
            return sorted(partition["partition"] for partition in description["partitions"])

    async def close(self) -> None:
        """Close the connection."""
        admin, self._admin = self._admin, None
        if admin is not None:
            with suppress(BrokerFailed):
                async with bounded(CLOSE_SECONDS):
                    await admin.close()

    @asynccontextmanager
    async def _client(self, seconds: float) -> AsyncIterator[KafkaAdmin]:
        try:
            async with bounded(seconds):
                if self._admin is None:
                    self._admin = KafkaAdmin(**self._settings.client_options())
                    await self._admin.start()
                yield self._admin
        except BaseException:
            await self.close()
            raise

    def _own_topics(self, shards: int, partitions: int | None) -> list[NewTopic]:
        settings = self._settings
        return [
            self._new(settings.topic, partitions or settings.topic_partitions, DELETE),
            self._new(settings.position_topic, shards, COMPACT),
            # One key: a late reader finds the newest record.
            self._new(settings.watermark_topic, 1, COMPACT),
        ]

    def _new(self, topic: str, partitions: int, policy: str) -> NewTopic:
        # The policy is not left to the broker's default: compaction would remove all but an order's last event.
        replication = self._settings.topic_replication or BROKERS_DEFAULT
        # The library takes the broker's default only with an assignment of replicas, which may be empty.
        assigned: dict[int, list[int]] | None = {} if replication == BROKERS_DEFAULT else None
        return NewTopic(topic, partitions, replication, assigned, {POLICY: policy})

    async def _create_missing(self, admin: KafkaAdmin, wanted: Sequence[NewTopic]) -> Collection[str]:
        """Create the missing topics and return the names of those that this call created."""
        there = {topic["topic"] for topic in await seen(admin, [topic.name for topic in wanted])}
        missing = [topic for topic in wanted if topic.name not in there]
        if not missing:
            return []
        cluster = await admin.describe_cluster()
        if cluster.get("controller_id") not in {broker["node_id"] for broker in cluster["brokers"]}:
            # The embedded broker has no controller, and creates each topic that it is asked about.
            await admin.create_by_asking([topic.name for topic in missing])
            return [topic.name for topic in missing]
        response = await admin.create_topics(missing)
        return [name for name, code, *_ in response.topic_errors if _created(name, for_code(code))]


def _created(name: str, error: Any) -> bool:
    if error is NoError:
        log.info("topic.created", topic=name)
    elif error is not TopicAlreadyExistsError:
        raise BrokerFailed(f"topic {name} can't be created: {describe(error())}")
    return error is NoError


async def seen(admin: KafkaAdmin, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the client's descriptions of the existing topics. Raises BrokerFailed."""
    found = []
    for topic in await admin.describe_topics(list(names)):
        error = for_code(topic["error_code"])
        if error is NoError:
            found.append(topic)
        elif error is not UnknownTopicOrPartitionError:
            raise BrokerFailed(f"topic {topic['topic']} can't be seen: {describe(error())}")
    return found


async def described(admin: KafkaAdmin, found: Sequence[dict[str, Any]]) -> Mapping[str, Topic]:
    """Return topics, which the client has described, by name and with their settings. Raises BrokerFailed."""
    configs = await _configs(admin, [topic["topic"] for topic in found])
    return {
        topic["topic"]: Topic(
            topic["topic"],
            len(topic["partitions"]),
            min(len(partition["replicas"]) for partition in topic["partitions"]),
            configs[topic["topic"]],
        )
        for topic in found
    }


async def _configs(admin: KafkaAdmin, names: Sequence[str]) -> dict[str, Mapping[str, str] | None]:
    """Return the checked settings of topics; None for a topic whose settings may not be read."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, {POLICY: None, IN_SYNC_MIN: None}) for name in names]
    try:
        (response,) = await admin.describe_configs(asked)
    except IncompatibleBrokerVersion:  # the embedded broker knows of no settings
        return {name: {} for name in names}
    configs: dict[str, Mapping[str, str] | None] = {}
    for code, _, _, name, entries in response.resources:
        error = for_code(code)
        if error not in (NoError, TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
            raise BrokerFailed(f"the settings of topic {name} can't be read: {describe(error())}")
        configs[name] = {entry[0]: entry[1] for entry in entries} if error is NoError else None
    return configs
