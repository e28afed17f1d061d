"""The console's settings, from the environment. README.md describes each."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from shared.identity.modes import is_loopback
from shared.notation import Seconds
from shared.process.settings import (
    AuthoritiesFile,
    FilePath,
    HttpUrl,
    IdentitySettings,
    Port,
    Words,
    key_of,
)

PORT = 8020
ANY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound


def _urls(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if not word.startswith(("http://", "https://")):
            raise ValueError(f"{word!r} must begin with http:// or https://")
        parts = urlsplit(word)
        if not parts.hostname or parts.port == 0:  # raises ValueError for a port that is none
            raise ValueError(f"{word!r} must have a host, and a port above 0")
    return tuple(word.rstrip("/") for word in words)


# The base URLs of the replicas' internal listeners, separated by spaces. A name may have the addresses of several.
Replicas = Annotated[Words, AfterValidator(_urls), Field(min_length=1)]


class ConsoleSettings(IdentitySettings):
    """Where the services are, and where browsers find the console."""

    model_config = SettingsConfigDict(env_prefix="CONSOLE_")

    port: Port = PORT
    # Where probes and metrics are served without a page.
    internal_port: Port | None = None
    tls_certificate_file: FilePath | None = None
    tls_key_file: Annotated[FilePath | None, key_of("tls_certificate_file"), Field(validate_default=True)] = None
    # How browsers reach the console, if another server stands before it.
    origin: HttpUrl | None = None
    order_url: HttpUrl
    relay_url: HttpUrl
    order_admin_url: HttpUrl
    relay_admin_url: HttpUrl
    order_replicas: Replicas
    product_replicas: Replicas
    coupon_replicas: Replicas
    balance_replicas: Replicas
    relay_replicas: Replicas
    # The authorities of the services' certificates, instead of the machine's.
    ca_file: AuthoritiesFile | None = None
    deadline_seconds: Seconds = 15.0
    streams_max: Annotated[int, Field(ge=1, le=10_000)] = 50
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @property
    def replicas(self) -> dict[str, tuple[str, ...]]:
        """Return the URLs of each service's replicas."""
        return {
            "order": self.order_replicas,
            "product": self.product_replicas,
            "coupon": self.coupon_replicas,
            "balance": self.balance_replicas,
            "relay": self.relay_replicas,
        }

    @field_validator("origin")
    @classmethod
    def _is_origin(cls, url: str | None, _known: ValidationInfo) -> str | None:
        if url is not None and (urlsplit(url).path or urlsplit(url).query or "@" in url):
            raise ValueError("must be a scheme and a host, such as https://console.example.com")
        return url

    @property
    def origins(self) -> frozenset[str]:
        """Return the origins under which browsers may see the console."""
        scheme = "http" if self.tls_certificate_file is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        origin = urlsplit(_as_browsers_say(self.origin or f"{scheme}://{host}:{self.port}"))
        if not is_loopback(origin.hostname or ""):
            return frozenset({origin.geturl()})
        port = "" if origin.port is None else f":{origin.port}"
        names = {origin.netloc.removesuffix(port), "localhost", "127.0.0.1"}
        return frozenset(f"{origin.scheme}://{name}{port}" for name in names)

    @property
    def is_secure(self) -> bool:
        """Return whether browsers reach it by TLS, so that cookies are sent over TLS only."""
        return all(origin.startswith("https://") for origin in self.origins)

    @property
    def shows_metrics_beside_pages(self) -> bool:
        """Return whether who sees the pages may read the metrics: in open mode, on the loopback address."""
        return self.internal_port is None and self.auth_mode == "open"

    def errors(self) -> list[str]:
        """Return a line for each combination of settings that is not safe."""
        if self.origin is None and self.host in ANY_ADDRESS:
            return ["setting CONSOLE_ORIGIN: required: no browser names the console by its CONSOLE_HOST"]
        # A browser's own machine may forward a port: of a container, or by `kubectl port-forward`.
        own = all(is_loopback(urlsplit(origin).hostname or "") for origin in self.origins)
        if self.auth_mode == "jwt" and not self.is_secure and not own:
            return ["setting CONSOLE_ORIGIN: must be an https:// address: sessions are not safe without TLS"]
        return []


def _as_browsers_say(origin: str) -> str:
    """Return an origin as browsers write it: in lower case, without the port that its scheme has anyway."""
    lower = origin.lower()
    return lower.removesuffix(":443") if lower.startswith("https:") else lower.removesuffix(":80")
