"""What the relay requires of its topics, and the command that fixes each wrong topic."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.relay.kafka.client import BrokerFailed
from services.relay.settings import RelaySettings
from shared.postgres.clocks import DatabaseClock

DELETE, COMPACT = "delete", "compact"
POLICY, IN_SYNC_MIN = "cleanup.policy", "min.insync.replicas"
BOOTSTRAP = "python -m services.relay bootstrap"
# With fewer replicas, the loss of one broker either loses confirmed events or stops the publication.
REPLICATION_MIN = 3


class TopicsRefused(Exception):  # noqa: N818 - not an error of ours: an operator has to fix a topic
    """A topic is not as the relay requires; the message has the command that fixes it."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as Kafka describes it. `replication` is the smallest number of replicas of its partitions.

    `config` is None if the relay may not read it, and empty if the broker has none.
    """

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] | None


@dataclass(slots=True)
class TopicView:
    """What all producers of a process share: the number of partitions of the topic, and the time.

    `partitions` is 0 until it is known. `refused` is the reason why nothing may be published, `doubts` are warnings for
    operators. `made_again` counts how often a topic was missing and was created again.
    """

    partitions: int = 0
    clock: DatabaseClock = field(default_factory=DatabaseClock)
    refused: str | None = None
    doubts: tuple[str, ...] = ()
    made_again: int = 0

    def check(self, made_again: int) -> None:
        """Raise TopicsRefused while nothing may be published, BrokerFailed if a topic was created again since."""
        if self.refused is not None:
            raise TopicsRefused(self.refused)
        if self.made_again != made_again:
            raise BrokerFailed("a topic was missing, so Kafka may have been emptied: the shard is taken over again")

    def milliseconds(self) -> int:
        """Return the database's time in Kafka's unit, for records: this host's clock may be wrong."""
        return int((self.clock.now().timestamp() if self.clock.known else time.time()) * 1000)


class Requirements:
    """The settings' requirements for the topics."""

    def __init__(self, settings: RelaySettings, shards: int) -> None:
        self._settings = settings
        self._shards = shards

    def refusals(self, topics: Mapping[str, Topic], partitions: int) -> list[str]:
        """Return why nothing may be published; `partitions` is the least number for the topic of events."""
        settings = self._settings
        events, positions = topics[settings.topic], topics[settings.position_topic]
        return [
            *self._wrong_policy(events, DELETE, "compaction removes all but an order's last event"),
            *self._too_few(events, partitions),
            *self._wrong_policy(positions, COMPACT, "what is published would be forgotten"),
            *self._wrong_number(positions),
        ]

    def doubts(self, topics: Mapping[str, Topic]) -> list[str]:
        """Return warnings for operators; the relay publishes nevertheless."""
        settings = self._settings
        found = [doubt for topic in topics.values() for doubt in self._doubts(topic)]
        watermarks, events = topics[settings.watermark_topic], topics[settings.topic]
        found += self._wrong_policy(watermarks, COMPACT, "readers that come late would find no watermark")
        if events.partitions < settings.topic_partitions:
            found.append(
                f"{events.name} has {count(events.partitions)}, fewer than RELAY_TOPIC_PARTITIONS "
                f"({settings.topic_partitions})"
            )
        return found

    def _wrong_policy(self, topic: Topic, needed: str, otherwise: str) -> list[str]:
        policy = (topic.config or {}).get(POLICY, needed)
        if policy == needed:
            return []
        mend = self._configs(topic, f"{POLICY}={needed}")
        return [f"{topic.name} has {POLICY}={policy} and needs {needed}, since {otherwise}: {mend}"]

    def _too_few(self, topic: Topic, needed: int) -> list[str]:
        if topic.partitions >= needed:
            return []
        return [
            f"{topic.name} has {count(topic.partitions)} and had {needed}: {self._partitions(topic, needed)} (if fewer "
            f"are right, in a Kafka that is new or was emptied: RELAY_TOPIC_PARTITIONS={topic.partitions} {BOOTSTRAP})"
        ]

    def _wrong_number(self, topic: Topic) -> list[str]:
        if topic.partitions == self._shards:
            return []
        found = f"{topic.name} has {count(topic.partitions)} and needs {self._shards}, one for each shard"
        if topic.partitions < self._shards:
            return [f"{found}: {self._partitions(topic, self._shards)}"]
        return [f"{found}: {self._topics('--delete', topic)}; then {BOOTSTRAP}"]

    def _doubts(self, topic: Topic) -> list[str]:
        if topic.config is None:
            return [f"the settings of {topic.name} can't be read or checked: grant DESCRIBE_CONFIGS on it"]
        if not topic.config:
            return []  # the embedded broker, which has neither settings nor replicas
        found = self._too_few_replicas(topic)
        in_sync = int(topic.config.get(IN_SYNC_MIN, 1))
        if topic.replication > 1 and in_sync == 1:
            found.append(
                f"{topic.name} has {IN_SYNC_MIN}=1, so one broker that dies can lose events that it confirmed: "
                f"{self._configs(topic, f'{IN_SYNC_MIN}=2')}"
            )
        if in_sync > topic.replication:
            found.append(
                f"{topic.name} has {IN_SYNC_MIN}={in_sync} and {count(topic.replication, 'replica')}, so it can "
                f"never have as many in sync: {self._configs(topic, f'{IN_SYNC_MIN}={max(1, topic.replication - 1)}')}"
            )
        return found

    def _too_few_replicas(self, topic: Topic) -> list[str]:
        wanted = self._settings.topic_replication
        if topic.replication >= (wanted or REPLICATION_MIN):
            return []
        least = f"RELAY_TOPIC_REPLICATION ({wanted})"
        if wanted is None:
            least = (
                f"{REPLICATION_MIN}: one lost broker can lose events that it confirmed, or stop the publication (to "
                f"accept this, set RELAY_TOPIC_REPLICATION={topic.replication})"
            )
        return [
            f"{topic.name} has partitions with a replication factor of {topic.replication}, below {least}: "
            f"kafka-reassign-partitions.sh{self._server} --execute …"
        ]

    @property
    def _server(self) -> str:
        further = "" if self._settings.kafka_security_protocol == "PLAINTEXT" else " --command-config FILE"
        return f" --bootstrap-server {self._settings.kafka_bootstrap_servers}{further}"

    def _topics(self, act: str, topic: Topic) -> str:
        return f"kafka-topics.sh{self._server} {act} --topic {topic.name}"

    def _partitions(self, topic: Topic, number: int) -> str:
        return f"{self._topics('--alter', topic)} --partitions {number}"

    def _configs(self, topic: Topic, setting: str) -> str:
        return (
            f"kafka-configs.sh{self._server} --alter --entity-type topics --entity-name {topic.name} "
            f"--add-config {setting}"
        )


def count(number: int, what: str = "partition") -> str:
    """Return a number with its noun, "partition" by default."""
    return f"{number} {what}" + ("" if number == 1 else "s")
