"""`make bench`: compares the checkout with row-at-a-time SQL and a durable-workflow library, in one run on one machine.

Rounds alternate between the product, pgbench and the peer on the same servers. The books are audited after each; a
round with a violation does not count and fails the run. Exit status: 0; 1 if a round failed or a figure that is
promised was missed; 2 if this machine lacks what it takes.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

from tests.bench.checkout import report
from tests.bench.checkout.catalogue import Catalogue, make_catalogue
from tests.bench.checkout.figures import Verdict, verdicts
from tests.bench.checkout.load import Load, LoadError
from tests.bench.checkout.peer import peer_shop, require_peer
from tests.bench.checkout.pgbench import PgbenchDatabase, pgbench_database, row_differences, table_rows
from tests.bench.checkout.plan import FULL, QUICK, Plan, loads, name_of
from tests.bench.checkout.profile import OUTPUT, idle, profile_on, profiler_settings, require_profiler
from tests.bench.checkout.results import Results
from tests.bench.checkout.round import UsedCatalogue, buy, measure
from tests.bench.checkout.shop import BooksError, Shop, running_shop
from tests.bench.servers import POSTGRES_SETTINGS, MissingError, Servers, find_pgbench, find_tool, machine, servers
from tests.infrastructure.waiting import DeadlineError

# The shapes of pgbench, hot or not: those used in ratios, and the others.
NEEDED_SHAPES = (("saga", False), ("single", False), ("saga", True))
MORE_SHAPES = (("local", False), ("single", True))


@dataclass(slots=True)
class Bench:
    """One run."""

    plan: Plan
    servers: Servers
    catalogue: Catalogue
    wrk: str
    pgbench: str
    results: Results = field(default_factory=Results)
    best_clients: dict[tuple[str, bool], int] = field(default_factory=dict)
    best_peer: tuple[str, int] | None = None
    began: float = field(default_factory=time.monotonic)
    # The rows that a checkout of the product adds to each table, as measured.
    rows: Mapping[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Warm the broker, profile, and then run the rounds."""
        self._guarded("warming up", self._warm_up)
        self._guarded("the profile", self._profile)
        for number in range(self.plan.rounds):
            self._guarded(f"round {number + 1}, the product", partial(self._product, number))
            self._guarded(f"round {number + 1}, pgbench", partial(self._pgbench, number))
            self._guarded(f"round {number + 1}, the peer", partial(self._peer, number))
            self._guarded(f"round {number + 1}, two replicas", partial(self._replicas, number))

    def _guarded(self, what: str, work: Callable[[], None]) -> None:
        """Run a measurement; on a failure keep its error, and none of its values."""
        kept = Results({name: list(values) for name, values in self.results.values.items()}, list(self.results.raw))
        self._say(what)
        try:
            work()
        except (BooksError, LoadError, DeadlineError) as error:
            self._say(f"{what} does not count: {error}")
            self.results.values, self.results.raw = kept.values, kept.raw
            self.results.failures.append(f"{what}: {error}")

    def _warm_up(self) -> None:
        with running_shop(self.servers, self.catalogue) as shop:
            buy(shop, Load("cold", 64, self.plan.warm_seconds), UsedCatalogue(self.wrk, seed=1))

    def _profile(self) -> None:
        load = Load("cold", 64, self.plan.profile_seconds)
        findings = profile_on(self.servers, self.catalogue, load, orders=1, native=False)
        self.results.add("safety", findings.safety_share())
        self.results.raw.append({"what": "profile", **findings.view()})

    def _product(self, number: int) -> None:
        with running_shop(self.servers, self.catalogue) as shop:
            used_catalogue = UsedCatalogue(self.wrk, seed=1000 * (number + 1))
            buy(shop, Load("cold", 64, self.plan.fresh_seconds), used_catalogue)
            for load in loads(self.plan):
                before = table_rows(shop.database)
                measured = measure(self.servers, shop, load, used_catalogue)
                self.results.product(measured, number)
                if name_of(load) == "cold 64":
                    self.rows = self._rows_since(before, shop)
            shop.audit()

    def _rows_since(self, before: Mapping[str, int], shop: Shop) -> Mapping[str, float]:
        after = table_rows(shop.database)
        orders = after["orders.orders"] - before["orders.orders"]
        return {table: (count - before[table]) / orders for table, count in after.items()}

    def _replicas(self, number: int) -> None:
        for turn, orders in enumerate(self.plan.replica_turns):
            with running_shop(self.servers, self.catalogue, orders=orders) as shop:
                used_catalogue = UsedCatalogue(self.wrk, seed=1000 * (number + 1) + 500 + 10 * turn)
                buy(shop, Load("cold", 64, self.plan.fresh_seconds), used_catalogue)
                measured = measure(self.servers, shop, Load("cold", 64, self.plan.seconds), used_catalogue)
                self.results.replicas(measured, orders, number)
                shop.audit()

    def _pgbench(self, number: int) -> None:
        more = MORE_SHAPES if self.plan.more else ()
        with pgbench_database(self.servers, self.catalogue, self.pgbench) as at:
            at.run("saga", self.plan.pgbench_clients[0], self.plan.fresh_seconds)
            for shape, hot in (*NEEDED_SHAPES, *more):
                clients = self.best_clients.get((shape, hot)) or self._best_clients(at, shape, hot=hot)
                before, orders = at.rows(), at.orders
                self.results.pgbench(at.run(shape, clients, self.plan.seconds, hot=hot), number)
                if not hot:
                    self._compare_rows(at, shape, before, orders)
            self.results.pgbench(at.run("saga", 1, self.plan.seconds), number)

    def _best_clients(self, at: PgbenchDatabase, shape: str, *, hot: bool) -> int:
        """Try each number of clients once, and use the fastest; one client's latency is measured separately."""
        tried = {
            clients: at.run(shape, clients, self.plan.sweep_seconds, hot=hot).rate
            for clients in self.plan.pgbench_clients
        }
        best = max((clients for clients in tried if clients > 1), key=lambda clients: tried[clients])
        self.best_clients[shape, hot] = best
        self.results.raw.append({"what": "pgbench's best", "shape": shape, "hot": hot, "rates": tried})
        return best

    def _compare_rows(self, at: PgbenchDatabase, shape: str, before: Mapping[str, int], orders: int) -> None:
        added = {table: (count - before[table]) / (at.orders - orders) for table, count in at.rows().items()}
        if self.rows and (different := row_differences(self.rows, added)):
            raise BooksError(f"pgbench {shape} does not write what the product writes: {'; '.join(different)}")

    def _peer(self, number: int) -> None:
        with peer_shop(self.servers, self.catalogue) as shop:
            if self.best_peer is None:
                tried = {
                    (style, threads): shop.run(style, threads, self.plan.sweep_seconds).rate
                    for style, threads in self.plan.peer_settings
                }
                self.best_peer = max(tried, key=lambda setting: tried[setting])
                named = {f"{style}, {threads} threads": rate for (style, threads), rate in tried.items()}
                self.results.raw.append({"what": "the peer's best", "rates": named})
            style, threads = self.best_peer
            self.results.peer(shop.run(style, threads, self.plan.seconds), number)

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", file=sys.stderr, flush=True)


def conclude(bench: Bench, name: str) -> list[Verdict]:
    """Print and write the results."""
    spreads = bench.results.spreads()
    found = verdicts(bench.results.medians())
    print(report.table(spreads))
    print()
    print(report.cpu_table(spreads, [load for load in ("cold 1", "cold 64", "cold 256", "hot 64") if load in spreads]))
    best = {f"pgbench {shape}{' hot' if hot else ''}": clients for (shape, hot), clients in bench.best_clients.items()}
    print(f"\nat their best: {', '.join(f'{what} {clients} clients' for what, clients in best.items())},", end=" ")
    print("dbos {}s with {} threads a process\n".format(*bench.best_peer or ("no ", 0)))
    document = {
        "command": name,
        "machine": machine(),
        "postgres": bench.servers.postgres_version,
        "kafka": bench.servers.kafka_description,
        "plan": asdict(bench.plan),
        "best": {**best, "peer": bench.best_peer},
        "failures": bench.results.failures,
        "medians": {what: asdict(spread) for what, spread in spreads.items()},
        "verdicts": [{"target": asdict(v.target), "value": v.value, "missed": v.missed} for v in found],
        "rounds": bench.results.raw,
        "rows_a_checkout": bench.rows,
        "seconds": time.monotonic() - bench.began,
    }
    (OUTPUT / "bench.json").write_text(json.dumps(document, indent=1))
    (OUTPUT / "bench.svg").write_text(report.chart(spreads, "Checkouts a second: median and range of the rounds"))
    for failure in bench.results.failures:
        print(f"did not count: {failure}")
    for verdict in found:
        print(verdict.line())
    return found


def main() -> int:
    """Run with the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.checkout", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under three minutes")
    options = parser.parse_args()
    OUTPUT.mkdir(exist_ok=True)
    try:
        wrk, pgbench = find_tool("wrk", "wrk"), find_pgbench()
        require_peer()
        require_profiler()
        with servers([*POSTGRES_SETTINGS, *profiler_settings()]) as started:
            idle(started)
            catalogue = make_catalogue(started.postgres_url)
            bench = Bench(QUICK if options.quick else FULL, started, catalogue, wrk, pgbench)
            bench.run()
            found = conclude(bench, "make bench-quick" if options.quick else "make bench")
    except MissingError as error:
        print(error, file=sys.stderr)
        return 2
    return 1 if bench.results.failures or any(verdict.missed for verdict in found) else 0


if __name__ == "__main__":
    sys.exit(main())
