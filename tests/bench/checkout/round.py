"""One measurement of the product: clients buy for some seconds while the meters run; then the sales are counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.bench.checkout.catalogue import COUPONS
from tests.bench.checkout.load import Answers, Load, run_wrk
from tests.bench.checkout.meters import Meters, Reading
from tests.bench.checkout.shop import BooksError, Shop
from tests.bench.servers import Servers

WARM_SECONDS = 1  # to prepare statements, open connections and import code


@dataclass(slots=True)
class UsedCatalogue:
    """The used part of a copy of the catalogue: coupons, and orders that were counted before."""

    wrk: str
    seed: int
    coupons: int = 0
    orders: Mapping[str, int] = field(default_factory=dict)

    def take(self, answers: Answers, clients: int) -> None:
        """Skip the used coupons, and those of requests that were cut off."""
        self.coupons += answers.coupons + 2 * clients
        self.seed += 1
        if self.coupons > COUPONS:
            raise RuntimeError("a measurement used up all coupons: the catalogue needs more")


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement with its cost."""

    load: Load
    answers: Answers
    used: Reading

    def per_checkout(self, amount: float) -> float:
        """Return an amount per checkout, including refused ones, because they are also work."""
        return amount / (self.answers.checkouts + self.answers.refused)


def order_urls(shop: Shop) -> list[str]:
    """Return the addresses of the order service's replicas."""
    return [url for name, url in shop.urls.items() if name.startswith("order")]


def buy(shop: Shop, load: Load, used_catalogue: UsedCatalogue) -> Answers:
    """Run the load once and count the sales."""
    answers = _run_wrk(shop, load, used_catalogue)
    used_catalogue.take(answers, load.clients)
    count(shop, load, answers, used_catalogue)
    return answers


def measure(servers: Servers, shop: Shop, load: Load, used_catalogue: UsedCatalogue) -> Measured:
    """Warm up, then measure. Raises LoadError or BooksError if the measurement does not count."""
    buy(shop, Load(load.scenario, load.clients, WARM_SECONDS, load.keyed), used_catalogue)
    processes = {name: process.pid for name, process in shop.processes.items()}
    if servers.broker is not None:
        processes["broker"] = servers.broker
    meters = Meters(servers.postgres_url, servers.postmaster, processes)
    before = meters.read()
    answers = _run_wrk(shop, load, used_catalogue)
    used = meters.read().since(before)
    used_catalogue.take(answers, load.clients)
    count(shop, load, answers, used_catalogue)
    return Measured(load, answers, Reading({**used.cpu, "wrk": answers.cpu_seconds}, used.transactions, used.wal_bytes))


def _run_wrk(shop: Shop, load: Load, used: UsedCatalogue) -> Answers:
    return run_wrk(used.wrk, order_urls(shop), load, used.seed, used.coupons, shop.tokens)


def count(shop: Shop, load: Load, answers: Answers, used_catalogue: UsedCatalogue) -> None:
    """Compare the clients' answers with the orders. Raises BooksError."""
    now = shop.orders_by_status()
    new = {status: number - used_catalogue.orders.get(status, 0) for status, number in now.items()}
    used_catalogue.orders = now
    # Requests that wrk cut off at its end may have become orders without an answer to a client. So may requests that it
    # cut off in the previous load, after that load's orders were counted.
    due = {"PAID": answers.checkouts, "REJECTED": answers.refused}
    for status, answered in due.items():
        if not answered <= new.get(status, 0) <= answered + 2 * load.clients:
            raise BooksError(f"{load}: clients got answers for {answered} {status} orders, and there are {new}")
    strange = set(new) - {*due, *(["PENDING_PAYMENT"] if load.scenario == "later" else [])}
    if any(new[status] for status in strange):
        raise BooksError(f"{load}: orders ended as they should not have: {new}")
