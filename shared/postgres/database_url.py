"""Parses `postgresql://…` for settings, migrations and command lines, and converts it to each driver's options.

The drivers (asyncpg, and libpq below psycopg) read the same text differently. asyncpg takes an unknown parameter as a
server setting, a `+` as a space, and only the first of two hosts; libpq does none of this. So neither driver parses it.
"""

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

PORT = 5432
SCHEMES = ("postgresql://", "postgres://")
WRITABLE = ("any", "primary", "read-write")  # a connection that can't write is never taken, whichever is given
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
# Parameters that both drivers treat alike, with their values; None: any value.
PARAMETERS: Mapping[str, Sequence[str] | None] = {
    "host": None,
    "port": None,
    "user": None,
    "password": None,
    "passfile": None,
    "dbname": None,
    "target_session_attrs": WRITABLE,
    "sslmode": SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "sslrootcert": None,
    "sslcert": None,
    "sslkey": None,
    "sslpassword": None,
    "sslcrl": None,
    "ssl_min_protocol_version": TLS_VERSIONS,
    "ssl_max_protocol_version": TLS_VERSIONS,
    "application_name": None,
    "options": None,
}
_PLACE = ("host", "port", "user", "password", "dbname")
_SERVER_SETTINGS = ("application_name", "options")
_URL = re.compile(r"(?:(?P<login>[^@/?]*)@)?(?P<hosts>[^@/?]*)(?:/(?P<dbname>[^?]*))?(?:\?(?P<query>.*))?")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[^:]*))?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")


@dataclass(frozen=True, slots=True)
class Host:
    """A host's name, its IP address, or the folder of its socket. Without a name or a port the drivers' defaults count:
    a local socket, and 5432."""

    name: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A database's address."""

    hosts: tuple[Host, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)

    def asyncpg_options(self, host: Host | None, settings: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments of `asyncpg.connect` for one host, with settings of the server from its start on."""
        given = {name: self.parameters[name] for name in _SERVER_SETTINGS if name in self.parameters}
        others = {name: value for name, value in self.parameters.items() if name not in given}
        others.pop("target_session_attrs", None)
        return {
            # asyncpg takes certificates out of a URL only.
            "dsn": f"postgresql://?{urlencode(others, quote_via=quote)}" if others else None,
            "host": (host and host.name) or None,
            "port": host and host.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "server_settings": {**given, **settings},
            "target_session_attrs": "any",
        }

    def libpq_options(self) -> dict[str, str]:
        """Return the keywords of a libpq connection, to the first host that takes writes."""
        ports = [host.port for host in self.hosts]
        options = {
            "host": ",".join(host.name for host in self.hosts),
            "port": ",".join(str(port or PORT) for port in ports) if any(ports) else "",
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
        }
        return {
            **{name: value for name, value in options.items() if value},
            **self.parameters,
            "target_session_attrs": "read-write",
        }

    def check_certificates(self) -> None:
        """Raise ValueError if a certificate, a key or a revocation list is missing or can't be read."""
        given = self.parameters
        default = Path("~/.postgresql/root.crt").expanduser()
        if given.get("sslmode", "").startswith("verify-") and not (
            "sslrootcert" in given or os.environ.get("PGSSLROOTCERT") or default.exists()
        ):
            raise ValueError(f"sslmode: {given['sslmode']} needs sslrootcert")
        if ("sslcert" in given) != ("sslkey" in given):
            raise ValueError("sslcert and sslkey: each needs the other")
        context, password = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), given.get("sslpassword", "")
        for name in ("sslrootcert", "sslcrl", "sslcert"):
            if name not in given:
                continue
            try:
                if name == "sslcert":
                    context.load_cert_chain(given[name], given["sslkey"], lambda: password)
                else:
                    context.load_verify_locations(given[name])
            except OSError as error:  # an SSLError is one
                names = "sslcert or sslkey" if name == "sslcert" else name
                raise ValueError(f"{names}: can't be used: {error.strerror or error}") from None
        if "sslkey" in given:
            _check_mode(Path(given["sslkey"]).stat())


def read(path: Path) -> str:
    """Return the address in a file. Raises ValueError, whose text has nothing that may be secret."""
    try:
        text = path.read_text("utf-8").strip()
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    if not text:
        raise ValueError("is empty")
    parse(text).check_certificates()
    return text


def parse(text: str) -> DatabaseUrl:
    """Return the parsed address. Raises ValueError, whose text has nothing that may be secret."""
    scheme = next((scheme for scheme in SCHEMES if text.startswith(scheme)), None)
    if scheme is None:
        raise ValueError("must begin with postgresql://")
    if not text.isprintable() or " " in text:
        raise ValueError("a space or a line break is in it")
    if "#" in text:
        raise ValueError("a # is written %23 in it")
    match = _URL.fullmatch(text.removeprefix(scheme))
    if match is None or "@" in (match["dbname"] or "") or "@" in (match["query"] or "").partition("=")[0]:
        raise ValueError("in a user or a password /, ? and @ are written %2F, %3F and %40")
    user, _, password = (match["login"] or "").partition(":")
    hosts = [_host_and_port(part) for part in match["hosts"].split(",")] if match["hosts"] else []
    given: dict[str, str] = {}
    for name, value in [
        ("user", _decoded("user", user)),
        ("password", _decoded("password", password)),
        ("dbname", _decoded("dbname", match["dbname"] or "")),
        *_query(match["query"] or ""),
    ]:
        if name in given or (name in ("host", "port") and hosts):
            raise ValueError(f"{name}: is given twice")
        if value:
            given[name] = value
    if "host" in given or "port" in given:
        hosts = _listed(given.get("host", ""), given.get("port", ""))
    _check_values(given)
    return DatabaseUrl(
        tuple(Host(_checked_host(name) if name or len(hosts) > 1 else "", _port(port)) for name, port in hosts),
        given.get("user"),
        given.get("password"),
        given.get("dbname"),
        {name: value for name, value in given.items() if name not in _PLACE},
    )


def _check_mode(found: os.stat_result) -> None:
    """Refuse a key that libpq refuses and asyncpg does not: `migrate` would fail where the service works."""
    if found.st_mode & (0o037 if found.st_uid == 0 else 0o077):
        raise ValueError("sslkey: others may read it; its mode must be 0600 or less, or 0640 if root owns it")


def _query(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split("&") if text else []:
        name, _, value = part.partition("=")
        if name not in PARAMETERS:
            known = ", ".join(sorted(PARAMETERS))
            shown = name if _NAME.fullmatch(name) else "a parameter"
            raise ValueError(f"{shown}: is not known; there are {known}")
        if not value:
            raise ValueError(f"{name}: has no value")
        pairs.append((name, _decoded(name, value)))
    return pairs


def _decoded(name: str, text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"{name}: a % is written %25")
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{name}: is not UTF-8") from None
    if "\0" in decoded:
        raise ValueError(f"{name}: must not have a NUL")
    return decoded


def _host_and_port(text: str) -> tuple[str, str]:
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError("host: an IPv6 address is written [::1]")
    return _decoded("host", match["host"]), _decoded("port", match["port"] or "")


def _listed(host: str, port: str) -> list[tuple[str, str]]:
    """Pair `host=…` with `port=…`: one port is for all of them."""
    hosts, ports = host.split(","), port.split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise ValueError(f"port: {len(ports)} for {len(hosts)} hosts")
    return list(zip(hosts, ports, strict=True))


def _checked_host(name: str) -> str:
    if name.startswith("/"):
        if ".s.PGSQL." in name or "," in name:
            raise ValueError("host: must be the socket's folder, without a comma")
        return name
    name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if ":" in name:
        try:
            ipaddress.IPv6Address(name)
        except ValueError:
            raise ValueError("host: has a : in it; in a list of hosts each port stands in port=") from None
    elif not re.fullmatch(r"[^\s/@?,\[\]]+", name):
        raise ValueError("host: is no host's name, no IP address and no path")
    return name


def _port(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError("port: must be a number from 1 to 65535")
    return int(text)


def _check_values(given: Mapping[str, str]) -> None:
    for name, value in given.items():
        allowed = PARAMETERS[name]
        if allowed is not None and value not in allowed:
            raise ValueError(f"{name}: must be one of {', '.join(allowed)}")
    if given.get("sslnegotiation") == "direct" and given.get("sslmode") not in SSL_MODES[3:]:
        raise ValueError("sslnegotiation: direct needs sslmode=require, verify-ca or verify-full")
