"""Two instances of the product, measured in turn: what a checkout costs one, compared with the other."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.bench.checkout.figures import median_interval
from tests.bench.checkout.load import Load, LoadError
from tests.bench.checkout.meters import process_seconds
from tests.bench.checkout.round import UsedCatalogue, buy
from tests.bench.checkout.shop import BooksError, Shop
from tests.bench.servers import MissingError, Servers, servers
from tests.infrastructure.waiting import DeadlineError

CLIENTS = 64
WARM_SECONDS = 20  # at first, a new broker interprets its code


@dataclass(frozen=True, slots=True)
class Instance:
    """The product. `others_seconds`: the CPU of what is counted beside the five services."""

    name: str
    shop: Shop
    used: UsedCatalogue
    others_seconds: Callable[[], float] = lambda: 0.0

    def checkout_us(self, seconds: int) -> float:
        """Let clients buy; return the CPU of a checkout, in microseconds.

        No saga is live before or after, and orders whose clients were cut off at the end count like the others. So
        everything that was spent belongs to an order that is counted.
        """
        earlier, spent = sum(self.used.orders.values()), self._spent()
        buy(self.shop, Load("cold", CLIENTS, seconds), self.used)
        return (self._spent() - spent) / (sum(self.used.orders.values()) - earlier) * 1e6

    def _spent(self) -> float:
        return self.others_seconds() + sum(process_seconds(process.pid) for process in self.shop.processes.values())


def compare(
    program: str,
    description: str | None,
    instances: Callable[[Servers], AbstractContextManager[tuple[Instance, Instance]]],
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
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--pairs", type=int, default=pairs, help=f"how many pairs are measured ({pairs})")
    parser.add_argument("--seconds", type=int, default=seconds, help=f"how long each turn of a pair lasts ({seconds})")
    arguments = parser.parse_args()
    try:
        with servers() as running, instances(running) as both:
            measured = measure_pairs(both, arguments.pairs, arguments.seconds)
            audits = [one.shop.audit() for one in both]
    except (MissingError, LoadError, BooksError, DeadlineError) as error:
        print(error, file=sys.stderr)
        return 2
    return judge(what, measured, audits, ratio_max)


def measure_pairs(instances: tuple[Instance, Instance], count: int, seconds: int) -> list[tuple[float, float]]:
    """Measure both in turn, `count` times; return the microseconds of a checkout in both, for each pair.

    Short turns: the speed of the machine changes within seconds, and should be the same for both turns of a pair.
    """
    for one in instances:
        buy(one.shop, Load("cold", CLIENTS, WARM_SECONDS), one.used)
    measured = []
    for number in range(count):
        cpu = [0.0, 0.0]
        for turn in (0, 1) if number % 2 == 0 else (1, 0):
            cpu[turn] = instances[turn].checkout_us(seconds)
        measured.append((cpu[0], cpu[1]))
        values = ", ".join(f"{one.name} {us:.0f} us" for one, us in zip(instances, cpu, strict=True))
        print(f"pair {number + 1:>2}: {values}, {cpu[1] / cpu[0]:.3f}", flush=True)
    return measured


def judge(
    what: str, measured: Sequence[tuple[float, float]], audits: Sequence[Mapping[str, int]], ratio_max: float
) -> int:
    """Print how the second of each pair compares with the first; return the exit status: 1 above the limit."""
    ratios = [second / first for first, second in measured]
    low, high = median_interval(ratios)
    median = statistics.median(ratios)
    print(f"{sum(audit['orders'] for audit in audits)} orders audited, all books agree")
    medians = [f"{statistics.median(values):.0f} us" for values in zip(*measured, strict=True)]
    print(f"CPU of a checkout, medians: {medians[0]} and {medians[1]}")
    print(f"{what}, CPU per checkout: {median:.3f} (95%: {low:.3f} to {high:.3f}); promised: {ratio_max}")
    print(json.dumps({"median": median, "interval": [low, high], "pairs": measured}))
    return 1 if median > ratio_max else 0
