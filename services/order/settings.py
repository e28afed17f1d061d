"""The order service's settings from the environment: ORDER_DATABASE_URL, ORDER_PORT, …"""

import os
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from services.order.saga import Participant
from shared.settings import RETENTION_DAYS, HttpUrl, RetentionDays, Seconds, ServiceSettings


class Settings(ServiceSettings):
    """Every field is described in the service's README."""

    model_config = SettingsConfigDict(env_prefix="ORDER_")

    port: Annotated[int, Field(ge=1, le=65535)] = 8001
    product_url: HttpUrl = "http://127.0.0.1:8002"
    coupon_url: HttpUrl = "http://127.0.0.1:8003"
    balance_url: HttpUrl = "http://127.0.0.1:8004"
    # Where operators are served, on the same host address; none unless it is set. Never expose it to clients.
    admin_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    # How long after one audit the next begins, and how long a difference must last to count.
    audit_interval_seconds: Seconds = 15
    audit_grace_seconds: Seconds = 5
    retention_days: RetentionDays = RETENTION_DAYS
    payment_timeout_seconds: Seconds = 900
    expiry_interval_seconds: Seconds = 5
    idempotency_hours: Annotated[int, Field(ge=24)] = 24
    # A process that is silent for this long loses its sagas to others.
    lease_seconds: Seconds = 5
    sweep_interval_seconds: Seconds = 1
    # How many batches (starts, transitions, commands to each participant) may be under way at once: where the services
    # share a host, more of them than it has cores are smaller and dearer, and none ends earlier.
    batches_at_once: Annotated[int, Field(ge=1)] = max(2, os.cpu_count() or 2)
    # Beyond it a new order gets 503. Throughput is at its best with 64 to 256 sagas at a time (make bench); twice as
    # many leave room for a burst, and more would only wait, on a slow day longer than clients do (make bench-overload).
    sagas_max: Annotated[int, Field(ge=1)] = 512

    @field_validator("payment_timeout_seconds")
    @classmethod
    def _paid_while_remembered(cls, seconds: float, known: ValidationInfo) -> float:
        """Participants take nothing for an order that is past; a payment begun at the last moment takes a while."""
        days = known.data.get("retention_days", RETENTION_DAYS)
        if seconds > days * 86_400 / 2:
            raise ValueError(f"must not exceed half of RETENTION_DAYS, which is {days}")
        return seconds

    @field_validator("idempotency_hours")
    @classmethod
    def _kept_while_the_saga_is(cls, hours: int, known: ValidationInfo) -> int:
        """A key's hours count from the end of its saga, which only the saga's row tells."""
        days = known.data.get("retention_days", RETENTION_DAYS)
        if hours > days * 24:
            raise ValueError(f"must not exceed RETENTION_DAYS, which is {days}")
        return hours

    @property
    def participant_urls(self) -> dict[Participant, str]:
        """Return where each participant is."""
        return {
            Participant.PRODUCT: self.product_url,
            Participant.COUPON: self.coupon_url,
            Participant.BALANCE: self.balance_url,
        }
