"""The relay's settings, read from the environment."""

import os
import secrets
import socket
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.relay.access import KafkaAccess
from shared.settings import Port, PostgresUrl, Seconds, ServiceSettings


def _replica() -> str:
    # Random: a process that is started again must not pass for the one whose connections may still be open.
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class RelaySettings(KafkaAccess, ServiceSettings):
    """The relay's settings; `database_url` is the order service's database, seen with the relay's role."""

    model_config = SettingsConfigDict(env_prefix="RELAY_")

    port: Port = 8005
    # Where operators are served, on the same host address; none unless it is set. Never expose it to clients.
    admin_port: Port | None = None
    # LISTEN needs a connection of its own from end to end; set this when database_url goes through a pooler.
    listen_database_url: PostgresUrl | None = None
    replica: Annotated[str, Field(min_length=1, max_length=200, default_factory=_replica)]
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = "orders.v1"
    topic_partitions: Annotated[int, Field(ge=1, le=1000)] = 4  # used when the relay creates the topic
    topic_replication: Annotated[int, Field(ge=1, le=15)] = 1  # likewise
    transactions: bool = True
    poll_interval_seconds: Seconds = 1.0
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 5.0
    # A shard's backlog drains no faster beyond this, and a batch has to be out well within the time limit.
    batch_events: Annotated[int, Field(ge=1, le=10_000)] = 2000
    batch_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 4 * 1024 * 1024
    # How long a shard's batches stay apart at the least, for more events in each: a batch costs Kafka a transaction.
    # Zero is for latency; where all share a few cores, some tens of milliseconds leave them to the checkouts.
    batch_pause_milliseconds: Annotated[float, Field(ge=0, le=1000)] = 0.0
    # Also Kafka's transaction timeout: how long a relay that died in a transaction can hold readers back.
    kafka_timeout_seconds: Annotated[float, Field(ge=0.5, le=600)] = 10.0

    # How long published events stay in the outbox, at least; a twelfth longer at the most, while the relay is up.
    retention_hours: Annotated[float, Field(gt=0, le=100_000)] = 168.0

    # How often the watermark moves; each time costs a call of the database and one of Kafka.
    watermark_interval_seconds: Annotated[float, Field(ge=0.05, le=60)] = 2.0

    # What replays may take of database and broker; live publishing does 25 times as much.
    replay_events_per_second: Annotated[int, Field(ge=1, le=100_000)] = 1000

    @property
    def position_topic(self) -> str:
        """Return the compacted topic that tells which batch was committed last; one partition a shard."""
        return f"{self.topic}.positions"

    @property
    def watermark_topic(self) -> str:
        """Return the topic of the watermarks."""
        return f"{self.topic}.watermarks"

    def shard_name(self, shard: int) -> str:
        """Return a shard's name in Kafka: its positions' key, and its transactional id when it publishes alone."""
        return f"{self.topic}.shard-{shard}"
