"""One measurement of the product: clients buy for some seconds while the meters run, and what was sold is counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.bench.checkout.catalogue import COUPONS
from tests.bench.checkout.load import Answers, Load, run_wrk
from tests.bench.checkout.meters import Meters, Reading
from tests.bench.checkout.servers import Servers
from tests.bench.checkout.shop import BooksError, Shop

WARM_SECONDS = 1  # statements prepared, connections open, code paths imported


@dataclass(slots=True)
class Till:
    """What has been used of a copy of the catalogue: coupons, and orders that were counted before."""

    wrk: str
    seed: int
    coupons: int = 0
    orders: Mapping[str, int] = field(default_factory=dict)

    def take(self, answers: Answers, clients: int) -> None:
        """Set the coupons aside that were used, and those of requests that were cut off."""
        self.coupons += answers.coupons + 2 * clients
        self.seed += 1
        if self.coupons > COUPONS:
            raise RuntimeError("a measurement used up all coupons: the catalogue needs more")


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement with what it cost."""

    load: Load
    answers: Answers
    used: Reading

    def per_checkout(self, amount: float) -> float:
        """An amount by checkout, refused ones too: they are work as well."""
        return amount / (self.answers.checkouts + self.answers.refused)


def order_urls(shop: Shop) -> list[str]:
    """Where the replicas of the order service are."""
    return [url for name, url in shop.urls.items() if name.startswith("order")]


def buy(shop: Shop, load: Load, till: Till) -> Answers:
    """Run the load once and count what was sold."""
    answers = run_wrk(till.wrk, order_urls(shop), load, till.seed, till.coupons)
    till.take(answers, load.clients)
    count(shop, load, answers, till)
    return answers


def measure(servers: Servers, shop: Shop, load: Load, till: Till) -> Measured:
    """Warm up, then measure. Raises LoadError or BooksError if the measurement does not count."""
    buy(shop, Load(load.scenario, load.clients, WARM_SECONDS, load.keyed), till)
    processes = {name: process.pid for name, process in shop.processes.items()}
    if servers.broker is not None:
        processes["broker"] = servers.broker
    meters = Meters(servers.postgres_url, servers.postmaster, processes)
    before = meters.read()
    answers = run_wrk(till.wrk, order_urls(shop), load, till.seed, till.coupons)
    used = meters.read().since(before)
    till.take(answers, load.clients)
    count(shop, load, answers, till)
    return Measured(load, answers, Reading({**used.cpu, "wrk": answers.cpu_seconds}, used.transactions, used.wal_bytes))


def count(shop: Shop, load: Load, answers: Answers, till: Till) -> None:
    """Hold what clients were told against the orders that there are. Raises BooksError."""
    now = shop.orders_by_status()
    new = {status: number - till.orders.get(status, 0) for status, number in now.items()}
    till.orders = now
    # Requests that wrk cut off at its end may have become orders of which no client was told; and so may those that it
    # cut off the time before, when they were counted before they had become any.
    due = {"PAID": answers.checkouts, "REJECTED": answers.refused}
    for status, told in due.items():
        if not told <= new.get(status, 0) <= told + 2 * load.clients:
            raise BooksError(f"{load}: clients were told of {told} {status} orders, and there are {new}")
    strange = set(new) - {*due, *(["PENDING_PAYMENT"] if load.scenario == "later" else [])}
    if any(new[status] for status in strange):
        raise BooksError(f"{load}: orders ended as they should not have: {new}")
