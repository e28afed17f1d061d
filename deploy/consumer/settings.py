"""The consumer's settings, read from the environment. All errors are reported together at start."""

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from .access import KafkaAccess, tls_context

# As JSON writes numbers: Python's own parsers also take "1_0" and " 1".
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.[0-9]+)?([eE][+-]?[0-9]+)?")
ADDRESS = "^postgres(ql)?://"
TOPIC = r"^[A-Za-z0-9._-]{1,200}$"
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,99})")


def _number(pattern: re.Pattern[str]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str) and not (pattern.fullmatch(value) and isfinite(float(value))):
            raise ValueError("must be a number, such as 10")
        return value

    return BeforeValidator(check)


def address_in(path: str) -> str:
    """Return the database's address in a file. Raises OSError if it can't be read or has no address."""
    try:
        text = Path(path).read_text("utf-8").strip()
    except UnicodeDecodeError:
        text = ""
    if not re.match(ADDRESS, text):
        raise OSError(f"{path} has no address of a database")
    return text


def _address_file(path: str) -> str:
    try:
        address_in(path)
    except OSError as error:
        raise ValueError(str(error)) from None
    return path


def _authorities(path: str | None) -> str | None:
    try:
        tls_context(path, None, None)
    except OSError as error:
        raise ValueError(f"can't be used: {error}") from None
    return path


def sources_in(text: str) -> dict[str, str]:
    """Return the URL of the relay of each topic, given words like `orders.v1=http://relay:8005`. Raises ValueError."""
    found: dict[str, str] = {}
    for word in text.split():
        topic, _, url = word.partition("=")
        if not (re.fullmatch(TOPIC, topic) and re.match("https?://.", url)):
            raise ValueError(f"must be words like orders.v1=http://relay:8005, and {word!r:.100} is none")
        if topic in found:
            raise ValueError(f"names the topic {topic} twice")
        # A relay has the events of one topic, so with a second one every event would be unknown.
        if url.rstrip("/") in found.values():
            raise ValueError(f"names the relay of {topic} for another topic as well")
        found[topic] = url.rstrip("/")
    if not found:
        raise ValueError("names no topic")
    for topic in found:
        if f"{topic}.watermarks" in found or f"{topic}.positions" in found:
            raise ValueError(f"names a topic that belongs to {topic}")
    return found


def _several(text: str | None) -> str | None:
    if text is not None:
        sources_in(text)
    return text


Integer = Annotated[int, _number(INTEGER)]
Float = Annotated[float, _number(NUMBER)]
# At most a year: infinity overflows clocks and Postgres' intervals.
Seconds = Annotated[Float, Field(gt=0, le=31_536_000)]


class ConsumerSettings(KafkaAccess):
    """The consumer's settings. The database is the platform's own; one of its two settings is set."""

    model_config = SettingsConfigDict(env_prefix="CONSUMER_", frozen=True, extra="ignore", populate_by_name=True)

    # Read for each new connection, so that the password, or the whole address, may be replaced at any time.
    database_url_file: Annotated[str, AfterValidator(_address_file)] | None = None
    database_url: Annotated[str | None, Field(pattern=ADDRESS, validate_default=True)] = None
    relay_url: Annotated[str, Field(pattern="^https?://")] = "http://127.0.0.1:8005"
    # A file with the token for the relay's API. It is read for each call, so it may be replaced at any time.
    relay_token_file: Annotated[str, Field(min_length=1)] | None = None
    # For https: the authorities to trust instead of the machine's, and a client certificate with its key.
    relay_ca_file: Annotated[str | None, AfterValidator(_authorities)] = None
    relay_certificate_file: Annotated[str, Field(min_length=1)] | None = None
    relay_key_file: Annotated[str | None, Field(min_length=1, validate_default=True)] = None
    topic: Annotated[str, Field(pattern=TOPIC)] = "orders.v1"
    # Several topics, each with its relay, in place of the settings of one: "orders.v1=http://relay-0:8005 …".
    topics: Annotated[str | None, AfterValidator(_several)] = None
    group: Annotated[str, Field(min_length=1, max_length=200)] = "platform"
    # A name that stays the same after a restart. The partitions then stay assigned to this process.
    instance: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    # How long a dead member of the group keeps its partitions. Brokers allow no less than 6 by default.
    session_seconds: Annotated[Float, Field(ge=1, le=300)] = 10.0
    batch_records: Annotated[Integer, Field(ge=1, le=10_000)] = 500
    check_interval_seconds: Seconds = 2.0
    # Must be longer than the relay keeps events: else minutes could not be compared.
    keep_hours: Annotated[Float, Field(gt=0, le=87_600)] = 336.0
    relay_timeout_seconds: Seconds = 10.0
    pool_size: Annotated[Integer, Field(ge=1, le=100)] = 4
    # Poolers that give each transaction another connection may not keep prepared statements: set 0 behind one.
    statement_cache_size: Annotated[Integer, Field(ge=0)] = 256
    host: str = "127.0.0.1"
    port: Annotated[Integer, Field(ge=1, le=65535)] = 8006
    client_timeout_seconds: Seconds = 10.0
    request_deadline_seconds: Seconds = 10.0
    shutdown_seconds: Seconds = 5.0
    # After SIGTERM, how long the consumer still serves while it reports itself unready.
    stop_delay_seconds: Annotated[Float, Field(ge=0, le=15)] = 0.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    access_log: Literal["all", "errors", "off"] = "errors"

    @field_validator("database_url")
    @classmethod
    def _one_address(cls, url: str | None, info: ValidationInfo) -> str | None:
        file = info.data.get("database_url_file", "wrong, which is reported")
        if url is None and file is None:
            raise PydanticCustomError("missing", "is not set")
        if url is not None and file is not None:
            raise ValueError("is set, and its file as well: set one of them")
        return url

    @field_validator("relay_key_file")
    @classmethod
    def _with_certificate(cls, key: str | None, info: ValidationInfo) -> str | None:
        certificate = info.data.get("relay_certificate_file")
        if (key is None) != (certificate is None):
            raise ValueError("a certificate and its key belong together: set both or neither")
        try:
            tls_context(None, certificate, key)
        except OSError as error:
            raise ValueError(f"can't be used: {error}") from None
        return key

    @field_validator("topics")
    @classmethod
    def _instead_of_one(cls, topics: str | None, info: ValidationInfo) -> str | None:
        one = {name: info.data.get(name, "") for name in ("topic", "relay_url")}
        if topics is not None and any(value != cls.model_fields[name].default for name, value in one.items()):
            raise ValueError("is set, and CONSUMER_TOPIC or CONSUMER_RELAY_URL as well: set one topic, or several")
        return topics

    def current_database_url(self) -> str:
        """Return the database's address as it is now. Raises OSError if its file can't be read."""
        return self.database_url or address_in(str(self.database_url_file))

    @property
    def sources(self) -> Mapping[str, str]:
        """Return the URL of the relay of each topic."""
        return {self.topic: self.relay_url} if self.topics is None else sources_in(self.topics)


def load() -> ConsumerSettings:
    """Read the environment. If something is wrong, print a line for each error on standard error and exit with 2."""
    try:
        return ConsumerSettings()
    except ValidationError as error:
        with suppress(OSError):
            for item in error.errors(include_url=False):
                name = str(item["loc"][0])
                variable = name if name.isupper() else f"CONSUMER_{name.upper()}"
                missing = item["type"] == "missing"
                secret = "@" in str(item["input"]) or variable in ("CONSUMER_DATABASE_URL", "KAFKA_SASL_PASSWORD")
                got = "" if missing else f" (got {'a secret' if secret else repr(item['input'])})"
                sys.stderr.write(f"setting {variable}: {'is not set' if missing else item['msg']}{got}\n")
        raise SystemExit(2) from None
