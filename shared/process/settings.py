"""Typed settings from the environment; at start, all errors are reported together."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared import tls
from shared.notation import Seconds, parse_timestamp
from shared.postgres.connecting import DatabaseSettings
from shared.process.exits import Exit, end
from shared.secrecy import Public
from shared.slots import EVERYTHING, Ownership, parse_slots
from shared.tracing.settings import TracingSettings


def http_url(url: str) -> str:
    """Return a base URL without slashes at its end. Raises ValueError."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return url.rstrip("/")


def _words(text: Any) -> Any:
    return tuple(text.split()) if isinstance(text, str) else text


def timestamp(text: str) -> str:
    """Return a text that is an RFC 3339 timestamp. Raises ValueError."""
    parse_timestamp(text)
    return text


def _slots(words: tuple[str, ...]) -> tuple[str, ...]:
    parse_slots(words)
    return words


# Words that are separated by spaces.
Words = Annotated[tuple[Public[str], ...], NoDecode, BeforeValidator(_words)]
HttpUrl = Annotated[Public[str], AfterValidator(http_url)]
Port = Annotated[int, Field(ge=1, le=65535)]
FilePath = Annotated[Public[str], Field(min_length=1)]
# PEM, like all files for TLS. Each may be replaced at any time.
AuthoritiesFile = Annotated[Public[str], AfterValidator(tls.check_authorities)]


def key_of(certificate: str) -> Any:
    """Return a validator for the setting of a key: it must belong to the certificate in another setting."""

    def check(path: str | None, known: ValidationInfo) -> str | None:
        if certificate in known.data:  # else it is wrong, which is reported
            tls.check_pair(known.data[certificate], path)
        return path

    return AfterValidator(check)


RETENTION_DAYS = 90
STOP_DELAY_SECONDS = 5.0  # in which balancers commonly notice, or a cluster has told all its proxies
STOP_DELAY_MAX_SECONDS = 15.0  # with the stop itself, within 25 seconds


class IdentitySettings(BaseSettings):
    """How callers are identified. Where nobody is asked who they are, `host` must be a loopback address."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    host: Public[str] = "127.0.0.1"
    # How callers are identified: the same in all services. There is no default, since either could be a mistake.
    auth_mode: Annotated[Literal["open", "jwt"] | None, Field(validation_alias="AUTH_MODE")] = None
    auth_issuer: Annotated[Public[str] | None, Field(validation_alias="AUTH_ISSUER", min_length=1)] = None
    auth_audience: Annotated[Public[str] | None, Field(validation_alias="AUTH_AUDIENCE", min_length=1)] = None
    auth_jwks: Annotated[Public[str] | None, Field(validation_alias="AUTH_JWKS", min_length=1)] = None
    # The authorities to trust, instead of the machine's, where auth_jwks is an https URL.
    auth_ca_file: Annotated[AuthoritiesFile | None, Field(validation_alias="AUTH_CA_FILE")] = None
    auth_algorithms: Annotated[Words, Field(validation_alias="AUTH_ALGORITHMS", min_length=1)] = ("RS256", "ES256")
    auth_token_types: Annotated[Words, Field(validation_alias="AUTH_TOKEN_TYPES", min_length=1)] = ("at+jwt", "JWT")


class ServiceSettings(DatabaseSettings, TracingSettings, IdentitySettings):
    """Settings of every service. Subclasses set `env_prefix` and add their own fields."""

    port: Port
    # Where this product's services, probes and metrics are served in jwt mode; 100 above `port` unless it is set.
    internal_port: Port | None = None
    # With these, every listener of the service speaks TLS.
    tls_certificate_file: FilePath | None = None
    tls_key_file: Annotated[FilePath | None, key_of("tls_certificate_file"), Field(validate_default=True)] = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    # A line per request costs about a tenth of a checkout's CPU, so by default only failed requests are logged.
    access_log: Literal["all", "errors", "off"] = "errors"
    client_timeout_seconds: Seconds = 10.0
    # How long a request may take. Then it is answered 503, or 202 if its work continues.
    request_deadline_seconds: Seconds = 10.0
    # After SIGTERM, how long the service still serves while it reports itself unready. By default 0 in open mode, which
    # is for one machine without a balancer.
    stop_delay_seconds: Annotated[float | None, Field(ge=0, le=STOP_DELAY_MAX_SECONDS)] = None

    def tls_files(self, *, internal: bool) -> tls.TlsFiles:  # noqa: ARG002
        """Return the files for a listener. `internal`: whether services of this product call it."""
        return tls.TlsFiles(self.tls_certificate_file, self.tls_key_file)

    @property
    def stop_delay(self) -> float:
        """Return how many seconds the service still serves after SIGTERM."""
        if self.stop_delay_seconds is not None:
            return self.stop_delay_seconds
        return STOP_DELAY_SECONDS if self.auth_mode == "jwt" else 0.0

    @property
    def internal_listener(self) -> "ServiceSettings":
        """Return these settings with the port of the internal listener."""
        return self.model_copy(update={"port": self.internal_port or self.port + 100})


class DomainSettings(ServiceSettings):
    """Settings of the services that take part in a saga. The added ones must be the same in all of them."""

    currency: Annotated[Public[str], Field(pattern=r"^[A-Z]{3}$", validation_alias="CURRENCY")] = "KRW"
    # Once one service has deleted its data of a saga, no other may ask for them. A command is late by far less than a
    # week.
    retention_days: Annotated[int, Field(ge=7, le=36_500, validation_alias="RETENTION_DAYS")] = RETENTION_DAYS


class CellSettings(BaseSettings):
    """What a cell owns: the same in all services of a cell."""

    # Slots such as `0-2047 3000`, and `older` for the orders with ids from before cell_slots_since.
    cell_slots: Annotated[Words, Field(validation_alias="CELL_SLOTS", min_length=1), AfterValidator(_slots)] = (
        EVERYTHING
    )
    # When all processes of the order service put slots into ids. The same in all cells, and never changed again.
    cell_slots_since: Annotated[
        Annotated[Public[str], AfterValidator(timestamp)] | None,
        Field(validation_alias="CELL_SLOTS_SINCE", validate_default=True),
    ] = None

    @field_validator("cell_slots_since")
    @classmethod
    def _with_slots(cls, since: str | None, known: ValidationInfo) -> str | None:
        """Check that the ids without a slot are known wherever there may be another cell."""
        words = known.data.get("cell_slots", EVERYTHING)
        if since is None and not Ownership.of(words, None).is_everything:
            raise ValueError("must be set where CELL_SLOTS is not everything")
        return since

    @property
    def ownership(self) -> Ownership:
        """Return which users and ids belong to this cell."""
        since = self.cell_slots_since
        return Ownership.of(self.cell_slots, None if since is None else parse_timestamp(since))


class ParticipantSettings(DomainSettings):
    """Settings of the services that execute commands. A caller of /internal has a secret or a client certificate."""

    internal_secret_file: FilePath | None = None
    # The authorities of the callers' certificates, and the names of the callers in them.
    internal_client_ca_file: AuthoritiesFile | None = None
    internal_client_names: Annotated[Words, Field(min_length=1)] = ("order", "audit")

    @field_validator("internal_client_ca_file")
    @classmethod
    def _with_tls(cls, path: str | None, known: ValidationInfo) -> str | None:
        if path is not None and known.data.get("tls_certificate_file", "") is None:
            prefix = cls.model_config.get("env_prefix", "")
            raise ValueError(f"needs {prefix}TLS_CERTIFICATE_FILE: without TLS there are no client certificates")
        return path

    def tls_files(self, *, internal: bool) -> tls.TlsFiles:
        """Return the files for a listener. `internal`: whether services of this product call it."""
        authorities = self.internal_client_ca_file if internal else None
        return tls.TlsFiles(self.tls_certificate_file, self.tls_key_file, authorities)


S = TypeVar("S", bound=BaseSettings)


def load(settings_class: type[S]) -> S:
    """Return the settings from the environment; or print one line an error on standard error and exit."""
    try:
        return settings_class()
    except ValidationError as error:
        end(Exit.MISCONFIGURED, *explain(settings_class, error))


def variable_of(settings_class: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a field."""
    alias = settings_class.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"{settings_class.model_config.get('env_prefix', '')}{name}".upper()


def explain(settings_class: type[BaseSettings], error: ValidationError) -> list[str]:
    """Return one line for each wrong setting, with its environment variable."""
    names = {name: variable_of(settings_class, name) for name in settings_class.model_fields}
    lines = []
    for item in error.errors(include_url=False):
        if not item["loc"]:  # it is about several settings, and the input has all of them, also the secret ones
            lines.append(f"settings: {item['msg']}")
            continue
        location = str(item["loc"][0])
        variable = names.get(location, location)
        got = "" if item["type"] == "missing" else f" (got {_shown(variable, item['input'])})"
        message = "is not set" if item["type"] == "missing" else item["msg"]
        lines.append(f"setting {variable}: {message}{got}")
    return lines


def _shown(variable: str, value: Any) -> str:
    secret = variable.endswith("DATABASE_URL") or (variable.endswith(("_URL", "_URLS")) and "@" in str(value))
    return "a secret" if secret else repr(value)
