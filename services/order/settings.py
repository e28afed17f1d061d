"""The order service's settings from the environment: ORDER_DATABASE_URL, ORDER_PORT, …"""

import os
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from services.order.product_shards import ONE_PRODUCT_SERVICE, ProductShards, participant_at, shards_of
from services.order.saga import Participant
from shared.contracts.books import SLOTS_TEXT_MAX
from shared.identity.secrets import Credential, SecretFile
from shared.notation import Seconds, parse_timestamp
from shared.process.settings import (
    RETENTION_DAYS,
    AuthoritiesFile,
    CellSettings,
    DomainSettings,
    FilePath,
    HttpUrl,
    Port,
    Words,
    http_url,
    key_of,
    timestamp,
)
from shared.secrecy import Public
from shared.slots import parse_slots
from shared.tls import ClientTls, TlsFiles, client


def _sharded(words: Sequence[str]) -> tuple[ProductShards, dict[str, str]]:
    """Return the product shards and their URLs for words such as 0-1023,3000=http://…. Raises ValueError."""
    addresses: list[tuple[frozenset[int], str]] = []
    for word in words:
        slots, _, url = word.partition("=")
        if not url or ":" in slots:
            slots, url = "", word
        addresses.append((parse_slots(slots.split(",") if slots else ()), http_url(url)))
    return shards_of(addresses)


def _complete(words: tuple[str, ...]) -> tuple[str, ...]:
    if words:
        _sharded(words)
    return words


ShardUrls = Annotated[Words, AfterValidator(_complete)]


def _power_of_two(number: int) -> int:
    if number.bit_count() != 1:
        raise ValueError("must be a power of two")
    return number


class Settings(CellSettings, DomainSettings):
    """Every field is described in the service's README."""

    model_config = SettingsConfigDict(env_prefix="ORDER_")

    port: Port = 8001
    # Only for `migrate`: how many shards the outbox of a new database gets, 4 if it is not set. Later it can't change.
    relay_shards: Annotated[int, Field(ge=4, le=64), AfterValidator(_power_of_two)] | None = None
    product_url: HttpUrl = "http://127.0.0.1:8002"
    # In place of it, the URLs of several product shards; each may begin with its slots: 0-2047=http://…
    product_urls: ShardUrls = ()
    coupon_url: HttpUrl = "http://127.0.0.1:8003"
    balance_url: HttpUrl = "http://127.0.0.1:8004"
    # The secrets with which the order service calls each participant.
    product_internal_secret_file: FilePath | None = None
    coupon_internal_secret_file: FilePath | None = None
    balance_internal_secret_file: FilePath | None = None
    # For https: the authorities of the participants' certificates, and the order service's own certificate for them.
    participants_ca_file: AuthoritiesFile | None = None
    participants_certificate_file: FilePath | None = None
    participants_key_file: Annotated[
        FilePath | None, key_of("participants_certificate_file"), Field(validate_default=True)
    ] = None
    # The port of the operators' listener, on the same host address; none unless it is set. Never expose it to clients.
    admin_port: Port | None = None
    # The pause between two audits, and how long a difference must last to count.
    audit_interval_seconds: Seconds = 15
    audit_grace_seconds: Seconds = 5
    # An RFC 3339 timestamp with an offset.
    archived_before: Annotated[Public[str], AfterValidator(timestamp)] | None = None
    payment_timeout_seconds: Seconds = 900
    expiry_interval_seconds: Seconds = 5
    idempotency_hours: Annotated[int, Field(ge=24)] = 24
    # The upper bound is a hundred years, as for RETENTION_DAYS.
    rejected_retention_hours: Annotated[int, Field(ge=24, le=876_000)] = 168
    # If a process does not renew its lease for this long, other processes take its sagas.
    lease_seconds: Seconds = 5
    sweep_interval_seconds: Seconds = 1
    # How many batches (starts, transitions, commands to each participant) may be in flight at the same time. If the
    # services share a host, more batches than cores are smaller and cost more, and none ends earlier.
    batches_at_once: Annotated[int, Field(ge=1)] = max(2, os.cpu_count() or 2)
    # Beyond this, a new order gets 503. Throughput is highest with 64 to 256 sagas at a time (make bench). Twice as
    # many leave room for a burst. More would only wait, possibly longer than their clients do (make bench-overload).
    sagas_max: Annotated[int, Field(ge=1)] = 512
    # What the user of one token may have under way in a process, and begin a minute. People need far less; a program
    # that orders for many users needs more.
    subject_sagas_max: Annotated[int, Field(ge=1)] = 16
    subject_starts_per_minute: Annotated[int, Field(ge=1)] = 120

    @field_validator("payment_timeout_seconds")
    @classmethod
    def _paid_while_remembered(cls, seconds: float, known: ValidationInfo) -> float:
        """Check that a payment can't outlast the participants' memory.

        Participants refuse commands for orders before the horizon. A payment that begins just before expiry takes time.
        """
        days = known.data.get("retention_days", RETENTION_DAYS)
        if seconds > days * 86_400 / 2:
            raise ValueError(f"must not exceed half of RETENTION_DAYS, which is {days}")
        return seconds

    @field_validator("idempotency_hours")
    @classmethod
    def _kept_while_the_saga_is(cls, hours: int, known: ValidationInfo) -> int:
        """Check that a key is not kept longer than its saga.

        A key's hours count from the end of its saga, and only the saga's row has that time.
        """
        days = known.data.get("retention_days", RETENTION_DAYS)
        if hours > days * 24:
            raise ValueError(f"must not exceed RETENTION_DAYS, which is {days}")
        return hours

    @model_validator(mode="after")
    def _one_way_to_the_products(self) -> "Settings":
        if self.product_urls and "product_url" in self.model_fields_set:
            raise ValueError("ORDER_PRODUCT_URL and ORDER_PRODUCT_URLS are both set; leave one of them out")
        return self

    @property
    def migration_parameters(self) -> dict[str, str]:
        """Return what the migrations read of the settings."""
        return {} if self.relay_shards is None else {"orders.relay_shards": str(self.relay_shards)}

    @property
    def product_shards(self) -> ProductShards:
        """Return which product is where."""
        return _sharded(self.product_urls)[0] if self.product_urls else ONE_PRODUCT_SERVICE

    @property
    def participant_urls(self) -> dict[str, str]:
        """Return the URL of each place: of each participant, or of each product shard."""
        one: dict[str, str] = {Participant.PRODUCT: self.product_url}
        return {
            **(_sharded(self.product_urls)[1] if self.product_urls else one),
            Participant.COUPON: self.coupon_url,
            Participant.BALANCE: self.balance_url,
        }

    @property
    def orders_archived_before(self) -> datetime | None:
        """Return before when an order must have been placed to be archived, None if none is."""
        return None if self.archived_before is None else parse_timestamp(self.archived_before)

    @property
    def audited_slots(self) -> dict[str, str]:
        """Return the parameters with which the audit asks for the holds of this cell only; none where it has all."""
        slots = " ".join(self.cell_slots)
        if self.ownership.is_everything or len(slots) > SLOTS_TEXT_MAX:
            return {}
        return {"slots": slots, "slots_since": self.cell_slots_since or ""}

    @property
    def participants_tls(self) -> ClientTls:
        """Return what gives the TLS context for a call of a participant."""
        return client(
            TlsFiles(self.participants_certificate_file, self.participants_key_file, self.participants_ca_file)
        )

    @property
    def credentials(self) -> dict[str, Credential]:
        """Return for each place what makes the headers of a call. All product shards know the same secret."""
        files = {
            Participant.PRODUCT: self.product_internal_secret_file,
            Participant.COUPON: self.coupon_internal_secret_file,
            Participant.BALANCE: self.balance_internal_secret_file,
        }
        known = {
            participant: partial(SecretFile(Path(file)).credential, "order") if file else dict
            for participant, file in files.items()
        }
        return {place: known[participant_at(place)] for place in self.participant_urls}
