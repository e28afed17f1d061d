"""The relay's settings, read from the environment."""

import os
import secrets
import socket
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from services.relay.access import KafkaAccess
from shared.notation import Seconds
from shared.postgres.connecting import PostgresUrl, PostgresUrlFile, current
from shared.process.settings import Port, ServiceSettings
from shared.secrecy import Public


def _replica() -> str:
    # Random: a restarted process must not be taken for its predecessor, whose connections may still be open.
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class RelaySettings(KafkaAccess, ServiceSettings):
    """The relay's settings; `database_url` is the order service's database, seen with the relay's role."""

    model_config = SettingsConfigDict(env_prefix="RELAY_")

    port: Port = 8005
    # The port of the operators' listener, on the same host address; none unless it is set. Never expose it to clients.
    admin_port: Port | None = None
    # LISTEN needs a direct connection; set this if database_url goes through a pooler.
    listen_database_url_file: PostgresUrlFile | None = None
    listen_database_url: PostgresUrl | None = None
    replica: Annotated[Public[str], Field(min_length=1, max_length=200, default_factory=_replica)]
    topic: Annotated[Public[str], Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = "orders.v1"
    topic_partitions: Annotated[int, Field(ge=1, le=1000)] = 4  # used when the relay creates the topic
    # Of topics that the relay creates, by default as the broker has it. With fewer replicas, by default 3, it warns.
    topic_replication: Annotated[int | None, Field(ge=1, le=15)] = None
    transactions: bool = True
    poll_interval_seconds: Seconds = 1.0
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 5.0
    # More events do not make a shard's backlog drain faster, and a batch must be published well within the time limit.
    batch_events: Annotated[int, Field(ge=1, le=10_000)] = 2000
    batch_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 4 * 1024 * 1024
    # The shortest pause between a shard's batches. A pause makes batches larger: each costs Kafka a transaction. Zero
    # is best for latency. If all services share a few cores, some tens of milliseconds leave more for the checkouts.
    batch_pause_milliseconds: Annotated[float, Field(ge=0, le=1000)] = 0.0
    # Also Kafka's transaction timeout: a relay that died in a transaction can block readers for this long.
    kafka_timeout_seconds: Annotated[float, Field(ge=0.5, le=600)] = 10.0

    # The least time that published events stay in the outbox. While the relay runs, they stay at most a twelfth longer.
    retention_hours: Annotated[float, Field(gt=0, le=100_000)] = 168.0

    # How often the watermark advances; each time costs one call of the database and one of Kafka.
    watermark_interval_seconds: Annotated[float, Field(ge=0.05, le=60)] = 2.0

    # The rate limit of replays, to spare database and broker; live publishing does 25 times as much.
    replay_events_per_second: Annotated[int, Field(ge=1, le=100_000)] = 1000

    @field_validator("listen_database_url")
    @classmethod
    def _one_listen_address(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and info.data.get("listen_database_url_file") is not None:
            raise ValueError("is set, and its file as well: set one of them")
        return url

    def current_listen_database_url(self) -> str:
        """Return the address for LISTEN as it is now. Raises AddressUnreadable."""
        if self.listen_database_url is None and self.listen_database_url_file is None:
            return self.current_database_url()
        return current(self.listen_database_url, self.listen_database_url_file)

    @property
    def position_topic(self) -> str:
        """Return the compacted topic with each shard's last committed batch number; one partition per shard."""
        return f"{self.topic}.positions"

    @property
    def watermark_topic(self) -> str:
        """Return the topic of the watermarks."""
        return f"{self.topic}.watermarks"

    def client_options(self) -> dict[str, Any]:
        """Return the options of the relay's Kafka clients. Raises OSError if a file is missing."""
        timeout = {"request_timeout_ms": int(self.kafka_timeout_seconds * 1000)}
        return {**self.kafka_options(), "client_id": self.replica, **timeout}

    def shard_name(self, shard: int) -> str:
        """Return a shard's name in Kafka: its positions' key, and its transactional id while it publishes alone."""
        return f"{self.topic}.shard-{shard}"
