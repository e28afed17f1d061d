"""What the consumer is told by its environment."""

import os
import secrets
import socket
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import HttpUrl, Port, Seconds, ServiceSettings


class ConsumerSettings(ServiceSettings):
    """The consumer's settings; `database_url` is the platform's own database."""

    model_config = SettingsConfigDict(env_prefix="CONSUMER_")

    port: Port = 8006
    kafka_bootstrap_servers: Annotated[str, Field(min_length=1, validation_alias="KAFKA_BOOTSTRAP_SERVERS")]
    relay_url: HttpUrl = "http://127.0.0.1:8005"
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = "orders.v1"
    group: Annotated[str, Field(min_length=1, max_length=200)] = "platform"
    # A name that stays the same when the process is started again: its partitions then wait for it.
    instance: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    # How long a member of the group that died keeps its partitions; brokers allow no less than 6 by default.
    session_seconds: Annotated[float, Field(ge=1, le=300)] = 10.0
    batch_records: Annotated[int, Field(ge=1, le=10_000)] = 500
    check_interval_seconds: Seconds = 2.0
    # How long received events are kept. Longer than the relay keeps them, or minutes can't be compared.
    keep_hours: Annotated[float, Field(gt=0, le=87_600)] = 336.0
    relay_timeout_seconds: Seconds = 10.0

    @property
    def watermark_topic(self) -> str:
        """Return the topic that tells how far the other one is complete."""
        return f"{self.topic}.watermarks"


def replica() -> str:
    """Return a name for this process that no other one has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
