"""Reads the configuration of `make run` from the environment, and makes the environment of the services."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.postgres import database_url

ROOT = Path(__file__).resolve().parents[2]

# Name and default port of each service, in the order of printing.
SERVICES: Mapping[str, int] = {"order": 8001, "product": 8002, "coupon": 8003, "balance": 8004, "relay": 8005}
PARTICIPANTS = ("product", "coupon", "balance")
# The ports of the operators' APIs: harmless on a developer's machine; a deployment sets them itself.
ADMIN_PORTS: Mapping[str, int] = {"order": 8011, "relay": 8015}

# Who issues tokens with AUTH=jwt, and for whom.
ISSUER_PORT = 8007
AUDIENCE = "order-platform"
# With AUTH=jwt each service has a second listener, for probes and for calls between services.
INTERNAL_ABOVE = 100

# Of the console and the playground. If one is taken, a free port replaces it, as with the servers below.
CONSOLE_PORT, PLAYGROUND_PORT = 8020, 8021
# Not 5432 and 9092, where other servers of the machine may listen. If one of these is taken, a free port replaces it.
POSTGRES_PORT = 54329
KAFKA_PORT = 19092

START_SECONDS = 60.0  # a cold start takes 5 s; a busy CI machine took ten times as long
ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 # compared with, not listened on


class MisconfiguredError(Exception):
    """The configuration is invalid; `lines` has one line per reason."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Configuration:
    """What to start, and where. Without database URLs Postgres is embedded; without `kafka` a broker is."""

    folder: Path
    hosts: Mapping[str, str]
    ports: Mapping[str, int]
    internal_ports: Mapping[str, int]  # the same as `ports` unless callers are asked for tokens
    database_urls: Mapping[str, str]
    migrator_urls: Mapping[str, str]
    kafka: str | None
    postgres_port: int | None
    kafka_port: int | None
    start_seconds: float
    admin_ports: Mapping[str, int] = field(default_factory=lambda: ADMIN_PORTS)
    jwt: bool = False
    issuer_port: int = ISSUER_PORT
    console_port: int | None = None
    playground_port: int | None = None

    @property
    def issuer(self) -> str:
        """Return the URL of the local issuer."""
        return f"http://127.0.0.1:{self.issuer_port}"

    @property
    def wanted_ports(self) -> set[int]:
        """Return every port that is for a certain program: no other one may take it."""
        faces = (self.console_port, self.playground_port)
        given = {port for port in (self.postgres_port, self.kafka_port, *faces) if port is not None}
        services = (*self.ports.values(), *self.internal_ports.values(), *self.admin_ports.values())
        return {*services, self.issuer_port, *given}

    def url(self, service: str) -> str:
        """Return the URL at which this machine reaches the service."""
        return self._url(service, self.ports[service])

    def internal_url(self, service: str) -> str:
        """Return the URL of probes and of calls between services."""
        return self._url(service, self.internal_ports[service])

    def secret_file(self, participant: str) -> Path:
        """Return the file with the secrets of the participant's callers."""
        return self.folder / "secrets" / participant

    def admin_url(self, service: str) -> str:
        """Return the URL at which this machine reaches a service's operators' API."""
        return self._url(service, self.admin_ports[service])

    def _url(self, service: str, port: int) -> str:
        host = self.hosts[service]
        if host in ANY_ADDRESS:
            host = "127.0.0.1"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read(environment: Mapping[str, str]) -> Configuration:
    """Return the configuration from the environment. Raises MisconfiguredError with all errors."""
    errors: list[str] = []
    ports = {
        service: _port(environment, f"{service.upper()}_PORT", errors) or SERVICES[service] for service in SERVICES
    }
    admin_ports = {
        service: _port(environment, f"{service.upper()}_ADMIN_PORT", errors) or ADMIN_PORTS[service]
        for service in ADMIN_PORTS
    }
    issuer_port = _port(environment, "ISSUER_PORT", errors) or ISSUER_PORT
    if (environment.get("AUTH") or "open") not in ("open", "jwt"):
        errors.append(f"setting AUTH: must be open or jwt (got {environment['AUTH']!r})")
    jwt = environment.get("AUTH") == "jwt"
    internal_ports = dict(ports)
    for service in SERVICES if jwt else ():
        given = _port(environment, f"{service.upper()}_INTERNAL_PORT", errors)
        internal_ports[service] = given or ports[service] + INTERNAL_ABOVE
    postgres_port = _port(environment, "LOCAL_POSTGRES_PORT", errors)
    kafka_port = _port(environment, "LOCAL_KAFKA_PORT", errors)
    console_port = _port(environment, "CONSOLE_PORT", errors)
    playground_port = _port(environment, "PLAYGROUND_PORT", errors)
    errors += _shared_ports(
        {f"{service.upper()}_PORT": port for service, port in ports.items()}
        | ({f"{service.upper()}_INTERNAL_PORT": port for service, port in internal_ports.items()} if jwt else {})
        | ({"ISSUER_PORT": issuer_port} if jwt else {})
        | {f"{service.upper()}_ADMIN_PORT": port for service, port in admin_ports.items()}
        | {"LOCAL_POSTGRES_PORT": postgres_port, "LOCAL_KAFKA_PORT": kafka_port, "CONSOLE_PORT": console_port}
        | {"PLAYGROUND_PORT": playground_port}
    )
    urls = _database_urls(environment, errors)
    migrators = _database_urls(environment, errors, "MIGRATE_")
    start_seconds = _seconds(environment, "LOCAL_START_SECONDS", START_SECONDS, errors)
    if errors:
        raise MisconfiguredError(errors)
    return Configuration(
        folder=local_folder(environment),
        hosts={service: environment.get(f"{service.upper()}_HOST", "127.0.0.1") for service in SERVICES},
        ports=ports,
        internal_ports=internal_ports,
        database_urls=urls,
        migrator_urls=migrators or urls,
        kafka=environment.get("KAFKA_BOOTSTRAP_SERVERS") or None,
        postgres_port=postgres_port,
        kafka_port=kafka_port,
        start_seconds=start_seconds,
        admin_ports=admin_ports,
        jwt=jwt,
        issuer_port=issuer_port,
        console_port=console_port,
        playground_port=playground_port,
    )


def local_folder(environment: Mapping[str, str]) -> Path:
    """Return the local folder: LOCAL_DIR, or else `.local` in the checkout."""
    return Path(environment.get("LOCAL_DIR") or ROOT / ".local").resolve()


def service_environment(
    configuration: Configuration, inherited: Mapping[str, str], database_urls: Mapping[str, str], kafka: str
) -> dict[str, str]:
    """Return the environment of every service: the inherited one, with the addresses of all services.

    One environment serves all five, because each service reads only its own prefix.
    """
    environment = dict(inherited) | {"KAFKA_BOOTSTRAP_SERVERS": kafka, "PYTHONUNBUFFERED": "1"}
    for service in SERVICES:
        prefix = service.upper()
        environment[f"{prefix}_HOST"] = configuration.hosts[service]
        environment[f"{prefix}_PORT"] = str(configuration.ports[service])
        environment[f"{prefix}_DATABASE_URL"] = database_urls[service]
        environment.setdefault(f"{prefix}_STOP_DELAY_SECONDS", "0")  # no balancer has to notice
        environment.pop(f"{prefix}_DATABASE_URL_FILE", None)
    if configuration.jwt:
        environment |= jwt_environment(
            configuration.issuer,
            f"{configuration.issuer}/jwks",
            configuration.internal_ports,
            configuration.secret_file,
        )
    environment.setdefault("AUTH_MODE", "open")
    environment |= {f"{service.upper()}_ADMIN_PORT": str(port) for service, port in configuration.admin_ports.items()}
    for participant in PARTICIPANTS:
        if participant == "product" and "ORDER_PRODUCT_URLS" in environment:
            continue  # the order service takes one of both settings
        environment.setdefault(f"ORDER_{participant.upper()}_URL", configuration.internal_url(participant))
    return environment


def jwt_environment(
    issuer: str, jwks: str, internal_ports: Mapping[str, int], secret_file: Callable[[str], Path]
) -> dict[str, str]:
    """Return the settings with which services ask for the tokens of an issuer, and know each other by secrets.

    `jwks`: the URL or the path of the issuer's keys. `secret_file` returns the file of a participant.
    """
    found = {"AUTH_MODE": "jwt", "AUTH_ISSUER": issuer, "AUTH_AUDIENCE": AUDIENCE, "AUTH_JWKS": jwks}
    found["AUTH_ALGORITHMS"] = "ES256"
    for service, port in internal_ports.items():
        found[f"{service.upper()}_INTERNAL_PORT"] = str(port)
    for participant in PARTICIPANTS:
        name = f"{participant.upper()}_INTERNAL_SECRET_FILE"
        found[name] = found[f"ORDER_{name}"] = str(secret_file(participant))
    return found


def _port(environment: Mapping[str, str], name: str, errors: list[str]) -> int | None:
    value = environment.get(name)
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 65535):
        errors.append(f"setting {name}: must be a port, 1 to 65535 (got {value!r})")
        return None
    return int(value)


def _seconds(environment: Mapping[str, str], name: str, default: float, errors: list[str]) -> float:
    value = environment.get(name)
    if not value:
        return default
    seconds = float(value) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", value) else 0.0
    if not seconds > 0:
        errors.append(f"setting {name}: must be a number of seconds above 0 (got {value!r})")
    return seconds


def _shared_ports(wanted: Mapping[str, int | None]) -> list[str]:
    first: dict[int, str] = {}
    errors = []
    for name, port in wanted.items():
        if port is None:
            continue
        if port in first:
            errors.append(f"setting {name}: {port} is also {first[port]}; every port can be used once")
        first.setdefault(port, name)
    return errors


def _database_urls(environment: Mapping[str, str], errors: list[str], prefix: str = "") -> dict[str, str]:
    names = {service: f"{prefix}{service.upper()}_DATABASE_URL" for service in SERVICES}
    urls = {}
    for service, name in names.items():
        try:
            if url := _database_url(environment, name):
                urls[service] = url
        except ValueError as error:
            errors.append(f"setting {name}: {error}")
            urls[service] = "wrong"
    missing = [name for service, name in names.items() if service not in urls]
    if urls and missing:
        errors.append(f"setting {', '.join(missing)}: not set, but other database URLs are; set all five or none")
    return urls


def _database_url(environment: Mapping[str, str], name: str) -> str | None:
    """Return an address, or the one in its file, if either is given. Raises ValueError."""
    if url := environment.get(name):
        database_url.parse(url).check_certificates()
        return url
    if file := environment.get(f"{name}_FILE"):
        try:
            return database_url.read(Path(file))
        except ValueError as error:
            raise ValueError(f"{file} {error}") from None
    return None
