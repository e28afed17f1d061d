"""Where the services are, and who calls them: from the environment, or beside `make run` from its run.json."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = ("order", "product", "coupon", "balance")
ADMIN = ("order-admin", "relay-admin")
# Where there are several cells: a variable for each listener that every cell has. All cells share the product shards.
CELLS = {
    "product": "ORDERCTL_PRODUCT_SHARDS",
    "order": "ORDERCTL_ORDER_CELLS",
    "coupon": "ORDERCTL_COUPON_CELLS",
    "order-admin": "ORDERCTL_CELLS",
    "relay-admin": "ORDERCTL_RELAY_CELLS",
}
DEADLINE_SECONDS = 15.0  # a person waits


class MisconfiguredError(Exception):
    """A setting is missing or wrong; the message names it."""


@dataclass(frozen=True, slots=True)
class Places:
    """`urls`: of those listeners that are known. `token_file` is read for each request, so it may be replaced."""

    urls: Mapping[str, str]
    token: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    deadline_seconds: float = DEADLINE_SECONDS

    @property
    def has_token(self) -> bool:
        """Return whether requests carry a token. Without one, the services have to be in open mode."""
        return self.token is not None or self.token_file is not None

    def read_token(self) -> str:
        """Return the token. Raises MisconfiguredError."""
        if self.token_file is None:
            return self.token or ""
        try:
            text = self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise MisconfiguredError(f"setting ORDERCTL_TOKEN_FILE: {error}") from None
        if not text.isprintable() or not text:
            raise MisconfiguredError("setting ORDERCTL_TOKEN_FILE: must have one line, the token")
        return text


@dataclass(frozen=True, slots=True)
class Cells:
    """The addresses of one listener in all cells, or of all product shards. Without `urls`, there is one, and its
    address is in Places."""

    listener: str
    urls: Sequence[str] = ()

    @property
    def word(self) -> str:
        """Return what one of them is called, in rows and options."""
        return "shard" if self.listener == "product" else "cell"

    def check(self) -> None:
        """Raise MisconfiguredError if an address is wrong."""
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise MisconfiguredError(f"a {self.word}'s address must begin with http:// or https:// (got {url!r})")
        if len({url.rstrip("/") for url in self.urls}) < len(self.urls):
            raise MisconfiguredError(f"a {self.word} is named twice: give each address once")


def read(environment: Mapping[str, str], *, beside: bool = True) -> Places:
    """Return the places. `beside`: without an address, take those of `make run`. Raises MisconfiguredError."""
    urls = {name: environment.get(variable(name), "") for name in (*PUBLIC, *ADMIN)}
    gateway = environment.get("ORDERCTL_URL")
    if gateway:
        urls |= {name: urls[name] or gateway for name in PUBLIC}
    if beside and not any(urls.values()):
        urls = _beside(Path(environment.get("LOCAL_DIR") or ROOT / ".local") / "run.json")
    for name, url in urls.items():
        if url and not url.startswith(("http://", "https://")):
            raise MisconfiguredError(f"setting {variable(name)}: must begin with http:// or https:// (got {url!r})")
    files = {name: environment.get(f"ORDERCTL_{name}_FILE") for name in ("TOKEN", "CA")}
    return Places(
        {name: url for name, url in urls.items() if url},
        environment.get("ORDERCTL_TOKEN") or None,
        Path(files["TOKEN"]) if files["TOKEN"] else None,
        Path(files["CA"]) if files["CA"] else None,
        _seconds(environment.get("ORDERCTL_DEADLINE_SECONDS")),
    )


def variable(name: str) -> str:
    """Return the environment variable with the URL of a listener."""
    return f"ORDERCTL_{name.upper().replace('-', '_')}_URL"


def _seconds(text: str | None) -> float:
    if not text:
        return DEADLINE_SECONDS
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text):
        raise MisconfiguredError(f"setting ORDERCTL_DEADLINE_SECONDS: must be a number of seconds (got {text!r})")
    return float(text)


def _beside(run_json: Path) -> dict[str, str]:
    try:
        services = json.loads(run_json.read_text())["services"]
        urls = {name: services[name]["url"] for name in PUBLIC}
        return urls | {f"{name}-admin": services[name]["admin_url"] for name in ("order", "relay")}
    except (OSError, ValueError, KeyError, TypeError):
        raise MisconfiguredError(
            f"no addresses: set ORDERCTL_URL and the others (`orderctl --help`), or start `make run` ({run_json})"
        ) from None
