"""The product as in a deployment: five services as processes, on a copy of the catalogue; and its audit."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from tests.bench.checkout.catalogue import Catalogue
from tests.bench.checkout.tokens import UserTokens
from tests.bench.servers import REPOSITORY, Servers
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SCHEMAS
from tests.infrastructure.waiting import free_port, free_ports, wait_until

START_SECONDS = 30
STOP_SECONDS = 10
SETTLE_SECONDS = 30
PARTICIPANTS = ("product", "coupon", "balance")
ORDER_PROGRAM = "services.order"
# No saga is live when books are audited, so the audit need not wait for changes.
AUDIT_GRACE_SECONDS = "0.1"
# In a deployment the audit runs during checkouts; here one audit of everything runs after each round.
AUDIT_INTERVAL_SECONDS = "3600"


class BooksError(Exception):
    """The audit found a violation, or an order ended wrongly, so the round does not count."""


@dataclass(frozen=True, slots=True)
class Shop:
    """The running services by name (several for replicas), with their addresses."""

    database: Database
    urls: Mapping[str, str]
    processes: Mapping[str, "subprocess.Popen[bytes]"]
    environment: Mapping[str, str]
    # In jwt mode: the file with a line for each user of the catalogue, which is the user's token.
    tokens: Path | None = None

    def orders_by_status(self) -> dict[str, int]:
        """Return the numbers of orders by status, once no saga is live. Raises DeadlineError if one stays live."""
        # In one statement: an abandoned request may still become an order between two statements.
        query = """
            SELECT status, count(*), (SELECT count(*) FROM orders.sagas WHERE status IN ('RUNNING', 'COMPENSATING'))
            FROM orders.orders GROUP BY status
        """
        counts: dict[str, int] = {}
        with psycopg.connect(self.database.url, autocommit=True) as connection:

            def nothing_live() -> bool:
                rows = connection.execute(query).fetchall()
                counts.clear()
                counts.update({str(status): int(count) for status, count, _ in rows})
                return not any(live for *_, live in rows)

            wait_until(nothing_live, SETTLE_SECONDS, "the end of all sagas")
        return counts

    def audit(self) -> Mapping[str, Any]:
        """Audit all books with the operators' own command. Raises BooksError with the findings."""
        return audit(self.environment)


def audit(environment: Mapping[str, str]) -> Mapping[str, Any]:
    """Run the operators' audit with the settings in `environment`. Raises BooksError with the findings."""
    command = [sys.executable, "-m", "services.order.admin", "audit", "--json"]
    ran = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise BooksError(f"the audit ended with {ran.returncode}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    report: Mapping[str, Any] = json.loads(ran.stdout)
    return report


def audited(servers: Servers, database: Database) -> Mapping[str, Any]:
    """Audit a database without running services, with participants started for it. Raises BooksError."""
    ports = {name: free_port() for name in PARTICIPANTS}
    environment = service_environment(database, ports, servers.kafka)
    with started(ports, environment, servers):
        return audit(environment)


def replica_names(orders: int) -> list[str]:
    """Return the names of the order service's replicas."""
    return [f"order-{number}" for number in range(1, orders + 1)] if orders > 1 else ["order"]


@contextmanager
def running_shop(
    servers: Servers,
    catalogue: Catalogue,
    *,
    orders: int = 1,
    tokens: UserTokens | None = None,
    order_program: str = ORDER_PROGRAM,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Shop]:
    """Run the product on a new copy of the catalogue, with this many replicas of the order service.

    With `tokens` it asks callers for them; else it runs in open mode. `order_program`: the module that runs as the
    order service. `settings`: further variables of the services' environment.
    """
    with catalogue.copy() as database:
        names = (*replica_names(orders), *PARTICIPANTS, "relay")
        numbers = free_ports(2 * len(names))
        ports = dict(zip(names, numbers[: len(names)], strict=True))
        environment = service_environment(database, ports, servers.kafka)
        if orders > 1:  # they share the settings of one: see the order service's README
            environment.setdefault("ORDER_BATCHES_AT_ONCE", str(max(1, (os.cpu_count() or 1) // orders)))
        environment |= settings or {}
        if tokens is not None:
            environment |= tokens.settings(dict(zip(names, numbers[len(names) :], strict=True)))
        command = [sys.executable, "-m", "services.relay", "bootstrap"]
        subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        with started(ports, environment, servers, order_program) as processes:
            yield Shop(database, addresses(ports), processes, environment, None if tokens is None else tokens.file)


def addresses(ports: Mapping[str, int]) -> dict[str, str]:
    """Return each service's address."""
    return {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


@contextmanager
def started(
    ports: Mapping[str, int], environment: Mapping[str, str], servers: Servers, order_program: str = ORDER_PROGRAM
) -> Iterator[Mapping[str, "subprocess.Popen[bytes]"]]:
    """Start a process for each name, wait until all are ready, and stop them at the end."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, port in ports.items():
            processes[name] = start_service(name, port, environment, servers, order_program)
        probed = {name: int(environment.get(f"{name.upper()}_INTERNAL_PORT", port)) for name, port in ports.items()}
        for name, url in addresses(probed).items():
            wait_until(partial(serves, processes[name], url), START_SECONDS, f"{name} to serve")
        yield processes
    finally:
        stop(processes)


def service_environment(database: Database, ports: Mapping[str, int], kafka: str) -> dict[str, str]:
    """Return the settings of all services: addresses, and each one's own role. Almost all others are defaults."""
    environment = dict(os.environ) | {"KAFKA_BOOTSTRAP_SERVERS": kafka, "PYTHONUNBUFFERED": "1"}
    for service in SCHEMAS:
        environment[f"{service.upper()}_DATABASE_URL"] = database.as_role(f"{service}_service")
    for name, port in ports.items():
        environment[f"{name.upper()}_PORT"] = str(port)
        if name in PARTICIPANTS:
            environment[f"ORDER_{name.upper()}_URL"] = f"http://127.0.0.1:{port}"
    # The five services share two cores with Postgres and Kafka: see the relay's README.
    environment.setdefault("RELAY_BATCH_PAUSE_MILLISECONDS", "100")
    environment.setdefault("AUTH_MODE", "open")
    environment["ORDER_AUDIT_INTERVAL_SECONDS"] = AUDIT_INTERVAL_SECONDS
    environment["ORDER_AUDIT_GRACE_SECONDS"] = AUDIT_GRACE_SECONDS
    return environment


def start_service(
    name: str, port: int, environment: Mapping[str, str], servers: Servers, order_program: str = ORDER_PROGRAM
) -> "subprocess.Popen[bytes]":
    """Start a process of the service with this name, or of a replica whose name begins with it."""
    service = name.partition("-")[0]
    command = [sys.executable, "-m", order_program if service == "order" else f"services.{service}"]
    return start_process(name, command, {**environment, f"{service.upper()}_PORT": str(port)}, servers)


def start_process(
    name: str, command: Sequence[str], environment: Mapping[str, str], servers: Servers
) -> "subprocess.Popen[bytes]":
    """Start a process that ends with this one at the latest. `name`: of its log."""
    with (log_folder() / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
        )
    servers.reaper.process(process)
    return process


def log_folder() -> Path:
    """Return the folder of the services' logs of the last round."""
    folder = REPOSITORY / ".local" / "bench-logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def serves(process: "subprocess.Popen[bytes]", url: str) -> bool:
    """Return whether a service reports that it is ready. Raises RuntimeError if it has ended."""
    if process.poll() is not None:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}: see {log_folder()}")
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stop(processes: Mapping[str, "subprocess.Popen[bytes]"]) -> None:
    """Stop first the services that call others, then the others; kill those that don't stop."""
    for callers in (True, False):
        group = [
            process for name, process in processes.items() if (name.partition("-")[0] not in PARTICIPANTS) is callers
        ]
        for process in group:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in group:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
