"""Everything that a user of a broker with rules could try, and what each one may do."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic

from tests.infrastructure.waiting import wait_until

USERS = ("relay", "consumer", "stranger")
PASSWORD = "a password"
REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError._NOENT,  # the client's own, since the broker does not show the topic
}
READ_SECONDS = 8.0  # a topic that the broker does not show is a record that never comes


@dataclass(frozen=True, slots=True)
class Cluster:
    """A broker that lets only its users in, with TLS and SCRAM. `inside` is an administrator's address."""

    address: str
    inside: str
    authority: Path
    password_file: Path

    def client(self, user: str, **options: Any) -> dict[str, Any]:
        """Return the options of a client of librdkafka."""
        access = {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": user}
        secret = {"sasl.password": PASSWORD, "ssl.ca.location": str(self.authority)}
        return {"bootstrap.servers": self.address, "log_level": 0, **access, **secret, **options}

    def settings(self, user: str) -> dict[str, str]:
        """Return the settings of relay and consumer."""
        return {
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": user,
            "KAFKA_SASL_PASSWORD_FILE": str(self.password_file),
            "KAFKA_SSL_CA_FILE": str(self.authority),
        }


def answer(act: Callable[[], Any]) -> str:
    """Return whether the broker let somebody act."""
    try:
        act()
    except KafkaException as error:
        if error.args[0].code() not in REFUSED:
            raise
        return "no"
    return "yes"


def write(cluster: Cluster, user: str, topic: str) -> None:
    errors: list[KafkaError | None] = []
    producer = Producer(cluster.client(user))
    producer.produce(topic, b"x", on_delivery=lambda error, _: errors.append(error))
    producer.flush(10)
    if errors[0] is not None:
        raise KafkaException(errors[0])


def fence(cluster: Cluster, user: str, transactional_id: str) -> None:
    producer = Producer(cluster.client(user, **{"transactional.id": transactional_id}))

    def fenced() -> bool:
        try:
            producer.init_transactions(10)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.COORDINATOR_LOAD_IN_PROGRESS:  # a new broker's, for a moment
                raise
            return False
        return True

    wait_until(fenced, 20, "the coordinator of transactions")


def read(cluster: Cluster, user: str, group: str, topic: str, *, join: bool) -> None:
    # Without the right to the group, a last commit of a position would be tried for 45 s.
    options = {"group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": join}
    consumer = Consumer(cluster.client(user, **options))
    try:
        if join:
            consumer.subscribe([topic])
        else:
            consumer.assign([TopicPartition(topic, 0, 0)])
        until = time.monotonic() + READ_SECONDS
        while time.monotonic() < until:
            record = consumer.poll(0.1)
            error = record and record.error()
            if error and (join or error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED):
                raise KafkaException(error)
            if (record and not error) or (join and consumer.assignment()):
                return
        raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    finally:
        consumer.close()


def administer(cluster: Cluster, user: str, act: Callable[[AdminClient], dict[Any, Any]]) -> None:
    admin = AdminClient(cluster.client(user))  # kept until it has answered
    for future in act(admin).values():
        future.result(10)


def altered(topic: str) -> ConfigResource:
    entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    return ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])


def everything(topic: str) -> AclBinding:
    own = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:stranger", "*")
    return AclBinding(*own, AclOperation.ALL, AclPermissionType.ALLOW)


def acts(cluster: Cluster, user: str, topic: str) -> dict[str, Callable[[], None]]:
    """Return everything that somebody could try."""

    def admin(act: Callable[[AdminClient], dict[Any, Any]]) -> Callable[[], None]:
        return lambda: administer(cluster, user, act)

    marks, positions = f"{topic}.watermarks", f"{topic}.positions"
    return {
        "write events": lambda: write(cluster, user, topic),
        "write watermarks": lambda: write(cluster, user, marks),
        "write positions": lambda: write(cluster, user, positions),
        "write another topic": lambda: write(cluster, user, "others"),
        "read events": lambda: read(cluster, user, topic, topic, join=False),
        "read watermarks": lambda: read(cluster, user, topic, marks, join=False),
        "read positions": lambda: read(cluster, user, topic, positions, join=False),
        "write its replay": lambda: write(cluster, user, f"{topic}-for-consumer"),
        "read its replay": lambda: read(cluster, user, topic, f"{topic}-for-consumer", join=True),
        "read another's replay": lambda: read(cluster, user, topic, f"{topic}-for-another", join=False),
        "read another topic": lambda: read(cluster, user, topic, "others", join=False),
        "join the group": lambda: read(cluster, user, topic, topic, join=True),
        "join another group": lambda: read(cluster, user, "others", topic, join=True),
        "fence a shard": lambda: fence(cluster, user, f"{topic}.shard-0"),
        "use another transactional id": lambda: fence(cluster, user, "others"),
        "create a topic of a replay": admin(lambda to: to.create_topics([NewTopic(f"{topic}-of-{user}", 1, 1)])),
        "create another topic": admin(lambda to: to.create_topics([NewTopic(f"others-of-{user}", 1, 1)])),
        "delete the topic": admin(lambda to: to.delete_topics([topic])),
        "delete records": admin(lambda to: to.delete_records([TopicPartition(topic, 0, 1)])),
        "change the topic": admin(lambda to: to.incremental_alter_configs([altered(topic)])),
        "give rights": admin(lambda to: to.create_acls([everything(topic)])),
    }


MAY = {
    "relay": {
        *("write events", "write watermarks", "write positions", "read positions"),
        *("write its replay", "fence a shard", "create a topic of a replay"),
    },
    "consumer": {"read events", "read watermarks", "read its replay", "join the group"},
    "stranger": set[str](),
}
