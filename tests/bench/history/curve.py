"""The cost of a checkout with and without history: the same load on two databases, alternately, in one run."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench.checkout.load import Load
from tests.bench.checkout.round import Measured, UsedCatalogue, measure
from tests.bench.checkout.shop import Shop, addresses, service_environment, started
from tests.bench.servers import REPOSITORY, Servers
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SCHEMAS
from tests.infrastructure.waiting import free_port

CLIENTS = 64
# The limit for the cost of history: a tenth of throughput and of CPU.
SLOWER_MAX = 1.1


@dataclass(frozen=True, slots=True)
class Curve:
    """The measurements of both databases, pair by pair."""

    empty: Sequence[Measured]
    past: Sequence[Measured]

    @property
    def rate_ratio(self) -> float:
        """Return the rate with history divided by the rate without."""
        return _median(self.past, rate) / _median(self.empty, rate)

    @property
    def cpu_ratio(self) -> float:
        """Return the CPU per checkout with history divided by that without."""
        return _median(self.past, cpu) / _median(self.empty, cpu)

    @property
    def holds(self) -> bool:
        """Return whether both are within a tenth."""
        return self.rate_ratio >= 1 / SLOWER_MAX and self.cpu_ratio <= SLOWER_MAX

    def lines(self) -> Iterator[str]:
        """Return the table and the verdict."""
        for name, rounds in (("empty", self.empty), ("past", self.past)):
            yield f"{name}: {_span(rounds, rate, '.0f')} checkouts/s, {_span(rounds, cpu, '.0f')} us of CPU a checkout,"
            yield f"    Postgres {_span(rounds, postgres, '.0f')} us of it, p99 {_span(rounds, p99, '.0f')} ms"
        verdict = "within a tenth" if self.holds else "MORE THAN A TENTH"
        yield f"with a past: {self.rate_ratio:.3f} x the throughput, {self.cpu_ratio:.3f} x the CPU: {verdict}"


def rate(measured: Measured) -> float:
    """Return the checkouts per second."""
    return measured.answers.rate


def cpu(measured: Measured) -> float:
    """Return the CPU of the product and its Postgres per checkout, in us, without the load and the broker."""
    used = sum(seconds for name, seconds in measured.used.cpu.items() if name not in ("wrk", "broker"))
    return measured.per_checkout(used) * 1e6


def postgres(measured: Measured) -> float:
    """Return the CPU of Postgres per checkout, in us."""
    return measured.per_checkout(measured.used.cpu["postgres"]) * 1e6


def p99(measured: Measured) -> float:
    """Return the 99th percentile of latency, in ms."""
    return measured.answers.latency["p99"] / 1000


def compare(servers: Servers, wrk: str, empty: Database, past: Database, *, rounds: int, seconds: int) -> Curve:
    """Measure alternately, also in alternating order. Raises LoadError or BooksError if a round does not count."""
    load = Load("cold", CLIENTS, seconds)
    used_catalogues = {id(empty): UsedCatalogue(wrk, 1), id(past): UsedCatalogue(wrk, 1001)}
    measured: dict[int, list[Measured]] = {id(empty): [], id(past): []}
    for number in range(rounds):
        for database in (empty, past) if number % 2 == 0 else (past, empty):
            with shop_on(servers, database) as shop:
                if not used_catalogues[id(database)].orders:
                    used_catalogues[id(database)].orders = shop.orders_by_status()
                measured[id(database)].append(measure(servers, shop, load, used_catalogues[id(database)]))
    return Curve(measured[id(empty)], measured[id(past)])


@contextmanager
def shop_on(servers: Servers, database: Database) -> Iterator[Shop]:
    """Run the product on a database that is kept. Its audit runs during the load, as in a deployment."""
    ports = {name: free_port() for name in SCHEMAS}
    environment = service_environment(database, ports, servers.kafka)
    del environment["ORDER_AUDIT_INTERVAL_SECONDS"], environment["ORDER_AUDIT_GRACE_SECONDS"]
    command = [sys.executable, "-m", "services.relay", "bootstrap"]
    subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    with started(ports, environment, servers) as processes:
        yield Shop(database, addresses(ports), processes, environment)


def _median(rounds: Sequence[Measured], value: Callable[[Measured], float]) -> float:
    return statistics.median(value(measured) for measured in rounds)


def _span(rounds: Sequence[Measured], value: Callable[[Measured], float], form: str) -> str:
    found = sorted(value(measured) for measured in rounds)
    return f"{statistics.median(found):{form}} ({found[0]:{form}}-{found[-1]:{form}})"
