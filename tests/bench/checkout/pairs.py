"""Two instances of the product, measured in turn: what a checkout costs one, compared with the other."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from tests.bench.checkout.figures import median_interval
from tests.bench.checkout.load import Load, LoadError
from tests.bench.checkout.meters import family_seconds, process_seconds
from tests.bench.checkout.round import UsedCatalogue, buy
from tests.bench.checkout.shop import BooksError, Shop
from tests.bench.servers import MissingError, Servers, servers
from tests.infrastructure.waiting import DeadlineError

CLIENTS = 64
WARM_SECONDS = 20  # at first, a new broker interprets its code


Parts = Mapping[str, float]  # the CPU of a checkout in microseconds, by service and server


@dataclass(frozen=True, slots=True)
class Instance:
    """The product. `servers`: process ids of servers that count as well, by name. `clients`: how many buy."""

    name: str
    shop: Shop
    used: UsedCatalogue
    servers: Mapping[str, int] = field(default_factory=dict)
    clients: int = CLIENTS

    def checkout(self, seconds: int) -> Parts:
        """Let clients buy; return the CPU of a checkout.

        No saga is live before or after, and orders whose clients were cut off at the end count like the others. So
        everything that was spent belongs to an order that is counted.
        """
        earlier, before = sum(self.used.orders.values()), self._spent()
        buy(self.shop, Load("cold", self.clients, seconds), self.used)
        count = sum(self.used.orders.values()) - earlier
        return {name: (spent - before[name]) / count * 1e6 for name, spent in self._spent().items()}

    def _spent(self) -> dict[str, float]:
        spent = {name: family_seconds(pid) for name, pid in self.servers.items()}
        for name, process in self.shop.processes.items():
            service = name.partition("-")[0]
            spent[service] = spent.get(service, 0.0) + process_seconds(process.pid)
        return spent


Instances = Callable[[Servers], AbstractContextManager[tuple[Instance, Instance]]]


def compare(
    program: str,
    description: str | None,
    instances: Instances,
    what: str,
    ratio_max: float,
    *,
    pairs: int = 40,
    seconds: int = 2,
) -> int:
    """Measure both instances, audit them and compare the second with the first; return the exit status.

    It is 1 above the limit, and 2 if a round failed or this machine lacks what it takes. `program` and `description`
    are for `--help`; `pairs` and `seconds` are the defaults.
    """
    parser = options(program, description, pairs, seconds)
    arguments = parser.parse_args()
    return run(instances, what, ratio_max, arguments.pairs, arguments.seconds)


def options(program: str, description: str | None, pairs: int, seconds: int) -> argparse.ArgumentParser:
    """Return the parser of a comparison's options."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--pairs", type=int, default=pairs, help=f"how many pairs are measured ({pairs})")
    parser.add_argument("--seconds", type=int, default=seconds, help=f"how long each turn of a pair lasts ({seconds})")
    return parser


def run(instances: Instances, what: str, ratio_max: float, pairs: int, seconds: int) -> int:
    """Measure, audit and compare; return the exit status, as `compare` does."""
    try:
        with servers() as running, instances(running) as both:
            measured = measure_pairs(both, pairs, seconds)
            audits = [one.shop.audit() for one in both]
    except (MissingError, LoadError, BooksError, DeadlineError) as error:
        print(error, file=sys.stderr)
        return 2
    return judge(what, measured, audits, ratio_max)


def measure_pairs(instances: tuple[Instance, Instance], count: int, seconds: int) -> list[tuple[Parts, Parts]]:
    """Measure both in turn, `count` times; return the CPU of a checkout in both, for each pair.

    Short turns: the speed of the machine changes within seconds, and should be the same for both turns of a pair.
    """
    for one in instances:
        buy(one.shop, Load("cold", one.clients, WARM_SECONDS), one.used)
    measured = []
    for number in range(count):
        cpu: list[Parts] = [{}, {}]
        for turn in (0, 1) if number % 2 == 0 else (1, 0):
            cpu[turn] = instances[turn].checkout(seconds)
        measured.append((cpu[0], cpu[1]))
        first, second = (sum(parts.values()) for parts in cpu)
        values = f"{instances[0].name} {first:.0f} us, {instances[1].name} {second:.0f} us"
        print(f"pair {number + 1:>2}: {values}, {second / first:.3f}", flush=True)
    return measured


def judge(
    what: str, measured: Sequence[tuple[Parts, Parts]], audits: Sequence[Mapping[str, int]], ratio_max: float
) -> int:
    """Print how the second of each pair compares with the first; return the exit status: 1 above the limit."""
    totals = [(sum(first.values()), sum(second.values())) for first, second in measured]
    ratios = [second / first for first, second in totals]
    low, high = median_interval(ratios)
    median = statistics.median(ratios)
    print(f"{sum(audit['orders'] for audit in audits)} orders audited, all books agree")
    medians = [f"{statistics.median(values):.0f} us" for values in zip(*totals, strict=True)]
    print(f"CPU of a checkout, medians: {medians[0]} and {medians[1]}")
    for parts in zip(*measured, strict=True):
        print(f"  of which {', '.join(f'{name} {us:.0f}' for name, us in _medians(parts).items())}")
    print(f"{what}, CPU per checkout: {median:.3f} (95%: {low:.3f} to {high:.3f}); promised: {ratio_max}")
    print(json.dumps({"median": median, "interval": [low, high], "pairs": totals}))
    return 1 if median > ratio_max else 0


def _medians(measured: Sequence[Parts]) -> Parts:
    return {name: statistics.median(parts[name] for parts in measured) for name in sorted(measured[0])}
