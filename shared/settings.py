"""Typed settings from the environment; every error is named at start, in one go."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared import database_url
from shared.exits import Exit, end
from shared.notation import TextInput


def _postgres_url(url: str) -> str:
    database_url.parse(url).check_certificates()
    return url


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return url.rstrip("/")


PostgresUrl = Annotated[str, AfterValidator(_postgres_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
# A year at the most: what is longer is a mistake, and infinity overflows clocks and Postgres' intervals.
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
Port = Annotated[int, Field(ge=1, le=65535)]
# The same for every service: what one forgets of an order, the others must not ask for. A week is far more than any
# command is late.
RetentionDays = Annotated[int, Field(ge=7, le=36_500, validation_alias="RETENTION_DAYS")]
RETENTION_DAYS = 90


class ServiceSettings(TextInput, BaseSettings):
    """What every service is told. Subclasses set `env_prefix` and add their own fields."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    host: str = "127.0.0.1"
    port: Port
    database_url: PostgresUrl
    # Prepared statements don't survive a transaction-pooling pgbouncer older than 1.21: set 0 behind one.
    statement_cache_size: Annotated[int, Field(ge=0)] = 256
    pool_size: Annotated[int, Field(ge=1, le=100)] = 4
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    # A line per request costs about a tenth of a checkout's CPU, so only the failed ones are logged unless asked.
    access_log: Literal["all", "errors", "off"] = "errors"
    client_timeout_seconds: Seconds = 10.0
    # How long a request may take before it is answered 503, or 202 where something was begun that goes on.
    request_deadline_seconds: Seconds = 10.0
    shutdown_seconds: Seconds = 5.0
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", validation_alias="CURRENCY")] = "KRW"


class ParticipantSettings(ServiceSettings):
    """Settings of the services that answer commands. Subclasses set `env_prefix` and the port."""

    retention_days: RetentionDays = RETENTION_DAYS


S = TypeVar("S", bound=BaseSettings)


def load(settings_class: type[S]) -> S:
    """Read the environment. On errors print one line each on standard error and exit."""
    try:
        return settings_class()
    except ValidationError as error:
        end(Exit.MISCONFIGURED, *explain(settings_class, error))


def explain(settings_class: type[BaseSettings], error: ValidationError) -> list[str]:
    """Return a line a wrong setting, naming the environment variable."""
    prefix = str(settings_class.model_config.get("env_prefix", ""))
    names: dict[str, str] = {}
    for name, field in settings_class.model_fields.items():
        alias = field.validation_alias
        names[name] = alias if isinstance(alias, str) else (prefix + name).upper()
    lines = []
    for item in error.errors(include_url=False):
        location = str(item["loc"][0]) if item["loc"] else ""
        variable = names.get(location, location)
        got = "" if item["type"] == "missing" else f" (got {_shown(variable, item['input'])})"
        message = "is not set" if item["type"] == "missing" else item["msg"]
        lines.append(f"setting {variable}: {message}{got}")
    return lines


def _shown(variable: str, value: Any) -> str:
    secret = variable.endswith("DATABASE_URL") or (variable.endswith("_URL") and "@" in str(value))
    return "a secret" if secret else repr(value)
