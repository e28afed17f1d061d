"""What `make run` is told by the environment, and what it tells the services through theirs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared import database_url

ROOT = Path(__file__).resolve().parents[2]

# Name and default port, in the order in which they are printed.
SERVICES: Mapping[str, int] = {"order": 8001, "product": 8002, "coupon": 8003, "balance": 8004, "relay": 8005}
PARTICIPANTS = ("product", "coupon", "balance")
# Where the order service serves operators: harmless on one's own machine; a deployment decides for itself.
ADMIN_PORT = 8011

# Far from 5432 and 9092, where a machine may have servers of its own. Taken ones are replaced by free ones.
POSTGRES_PORT = 54329
KAFKA_PORT = 19092

START_SECONDS = 60.0  # a cold start takes 5; a busy CI machine has been seen at ten times that
ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 # compared with, not listened on


class MisconfiguredError(Exception):
    """The environment cannot work; `lines` says each reason in one line."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Configuration:
    """What to start and where. Without database URLs a Postgres is embedded, without `kafka` a broker."""

    folder: Path
    hosts: Mapping[str, str]
    ports: Mapping[str, int]
    database_urls: Mapping[str, str]
    kafka: str | None
    postgres_port: int | None
    kafka_port: int | None
    start_seconds: float
    admin_port: int = ADMIN_PORT

    def url(self, service: str) -> str:
        """Where this machine reaches the service."""
        return self._url(service, self.ports[service])

    def admin_url(self) -> str:
        """Where this machine reaches the order service's side for operators."""
        return self._url("order", self.admin_port)

    def _url(self, service: str, port: int) -> str:
        host = self.hosts[service]
        if host in ANY_ADDRESS:
            host = "127.0.0.1"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read(environment: Mapping[str, str]) -> Configuration:
    """Return what the environment asks for; MisconfiguredError names everything that is wrong with it."""
    errors: list[str] = []
    ports = {
        service: _port(environment, f"{service.upper()}_PORT", errors) or SERVICES[service] for service in SERVICES
    }
    admin_port = _port(environment, "ORDER_ADMIN_PORT", errors) or ADMIN_PORT
    postgres_port = _port(environment, "LOCAL_POSTGRES_PORT", errors)
    kafka_port = _port(environment, "LOCAL_KAFKA_PORT", errors)
    errors += _shared_ports(ports, admin_port, postgres_port, kafka_port)
    urls = _database_urls(environment, errors)
    start_seconds = _seconds(environment, "LOCAL_START_SECONDS", START_SECONDS, errors)
    if errors:
        raise MisconfiguredError(errors)
    return Configuration(
        folder=local_folder(environment),
        hosts={service: environment.get(f"{service.upper()}_HOST", "127.0.0.1") for service in SERVICES},
        ports=ports,
        database_urls=urls,
        kafka=environment.get("KAFKA_BOOTSTRAP_SERVERS") or None,
        postgres_port=postgres_port,
        kafka_port=kafka_port,
        start_seconds=start_seconds,
        admin_port=admin_port,
    )


def local_folder(environment: Mapping[str, str]) -> Path:
    """The folder that holds everything local: LOCAL_DIR, else `.local` in the checkout."""
    return Path(environment.get("LOCAL_DIR") or ROOT / ".local").resolve()


def service_environment(
    configuration: Configuration, inherited: Mapping[str, str], database_urls: Mapping[str, str], kafka: str
) -> dict[str, str]:
    """The environment of every service: what was inherited, and where the others are.

    One environment does for all five, as each service reads its own prefix only.
    """
    environment = dict(inherited) | {"KAFKA_BOOTSTRAP_SERVERS": kafka, "PYTHONUNBUFFERED": "1"}
    for service in SERVICES:
        prefix = service.upper()
        environment[f"{prefix}_HOST"] = configuration.hosts[service]
        environment[f"{prefix}_PORT"] = str(configuration.ports[service])
        environment[f"{prefix}_DATABASE_URL"] = database_urls[service]
    environment["ORDER_ADMIN_PORT"] = str(configuration.admin_port)
    for participant in PARTICIPANTS:
        environment.setdefault(f"ORDER_{participant.upper()}_URL", configuration.url(participant))
    return environment


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


def _shared_ports(
    ports: Mapping[str, int], admin_port: int, postgres_port: int | None, kafka_port: int | None
) -> list[str]:
    wanted = [(f"{service.upper()}_PORT", port) for service, port in ports.items()]
    wanted += [("ORDER_ADMIN_PORT", admin_port)]
    wanted += [("LOCAL_POSTGRES_PORT", postgres_port or 0), ("LOCAL_KAFKA_PORT", kafka_port or 0)]
    first: dict[int, str] = {}
    errors = []
    for name, port in wanted:
        if port and port in first:
            errors.append(f"setting {name}: {port} is also {first[port]}; every port can be used once")
        first.setdefault(port, name)
    return errors


def _database_urls(environment: Mapping[str, str], errors: list[str]) -> dict[str, str]:
    names = {service: f"{service.upper()}_DATABASE_URL" for service in SERVICES}
    urls = {service: environment[name] for service, name in names.items() if environment.get(name)}
    missing = [name for service, name in names.items() if service not in urls]
    if urls and missing:
        errors.append(f"setting {', '.join(missing)}: not set, but other database URLs are; set all five or none")
    for service, url in urls.items():
        try:
            database_url.parse(url).check_certificates()
        except ValueError as error:
            errors.append(f"setting {names[service]}: {error}")
    return urls
