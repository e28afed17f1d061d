"""`make bench-overload`: the product's behaviour with more customers than it can serve.

Its peak is what customers get who wait for their answers. Then customers come at multiples of it, whether or not the
last ones were served. It has to go on serving nearly as many, refuse the others immediately, and not grow.

The machine's speed changes by the minute, so peak and overload alternate: each overload is a multiple of the peak that
was measured right before it, and what it serves is held against the peaks right before and right after it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from tests.bench.checkout.catalogue import make_catalogue, wait_for_checkpoint
from tests.bench.checkout.figures import Spread
from tests.bench.checkout.load import LoadError
from tests.bench.checkout.meters import process_seconds
from tests.bench.checkout.shop import BooksError, Shop, running_shop
from tests.bench.servers import REPOSITORY, MissingError, Servers, servers

PEAK_CLIENTS = 480  # almost the capacity of a process; with 256 the rate is a sixth lower, with 64 a third
WARM_UP_SECONDS = 10  # a new broker interprets its code at first
MULTIPLES = (2.0, 4.0)
# At this multiple, the served rate must be this share of the peak. Beyond it, nothing is promised.
PROMISED_MULTIPLE, GOODPUT_MIN = 2.0, 0.8
# Heaps grow to the need of the first overload. More growth than this in later ones would continue.
GROWTH_MAX_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Served:
    """The customers' answers, the CPU by process, and each process' memory afterwards."""

    report: Mapping[str, Any]
    cpu: Mapping[str, float]
    memory: Mapping[str, int]

    @property
    def goodput(self) -> float:
        """Return the served checkouts per second."""
        return float(self.report["goodput"])


@dataclass(frozen=True, slots=True)
class Flood:
    """A load at a multiple of the peak, and the peaks directly before and after it."""

    multiple: float
    served: Served
    before: float
    after: float

    @property
    def share(self) -> float:
        """Return the served share of the peak."""
        return self.served.goodput / statistics.mean((self.before, self.after))

    def line(self) -> str:
        """Return a line of the table."""
        report = self.served.report
        statuses = report["statuses"]
        return (
            f"{self.multiple:>4.1f} x {self.before:.0f}/s: {self.served.goodput:.0f}/s served, {self.share:.2f} of "
            f"{self.before:.0f} and {self.after:.0f}; p50 {report['p50_ms']:.0f} ms, p99 {report['p99_ms']:.0f} ms; "
            f"{statuses.get('503', 0)} refused, p99 {report['refused_p99_ms']:.0f} ms; "
            f"others: { {status: n for status, n in statuses.items() if status not in ('201', '503')} }, "
            f"no connection {report['without_connection']}, broken {report['broken']}; CPU seconds: "
            f"{', '.join(f'{name} {seconds:.1f}' for name, seconds in self.served.cpu.items())}; "
            f"MiB: {', '.join(f'{name} {size >> 20}' for name, size in self.served.memory.items())}"
        )


def let_buy(shop: Shop, kind: str, amount: float, seconds: int, seed: int) -> Served:
    """Let customers buy who *wait* for answers, or who *come* at a rate, in a separate process."""
    command = [sys.executable, "-m", "tests.bench.overload.client", shop.urls["order"], str(seconds), str(seed)]
    before = {name: process_seconds(process.pid) for name, process in shop.processes.items()}
    ran = subprocess.run([*command, kind, f"{amount:.1f}"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    report = json.loads(ran.stdout)
    cpu = {name: process_seconds(process.pid) - before[name] for name, process in shop.processes.items()}
    shop.orders_by_status()  # waits until no saga is live
    memory = {name: psutil.Process(process.pid).memory_info().rss for name, process in shop.processes.items()}
    return Served(report, {"load": report["cpu_seconds"], **cpu}, memory)


def find_peak(shop: Shop, seconds: int, seed: int) -> float:
    """Measure customers who wait for their answers. Raises LoadError if one of them was not served."""
    served = let_buy(shop, "wait", PEAK_CLIENTS, seconds, seed)
    if set(served.report["statuses"]) != {"201"} or served.report["broken"]:
        raise LoadError(f"customers who wait were answered what they should not have been: {served.report}")
    cpu = ", ".join(f"{name} {used:.1f}" for name, used in served.cpu.items())
    print(f"peak {served.goodput:.0f}/s; p50 {served.report['p50_ms']:.0f} ms; CPU seconds: {cpu}", flush=True)
    return served.goodput


def measure(running: Servers, shop: Shop, rounds: int, seconds: int) -> list[Flood]:
    """Measure peak and overload alternately."""
    find_peak(shop, WARM_UP_SECONDS, 0)
    wait_for_checkpoint(running.postgres_url)
    before = find_peak(shop, seconds, 1)
    floods: list[Flood] = []
    for number, multiple in enumerate(MULTIPLES * rounds):
        served = let_buy(shop, "come", multiple * before, seconds, 2 * number + 2)
        after = find_peak(shop, seconds, 2 * number + 3)
        floods.append(Flood(multiple, served, before, after))
        print(floods[-1].line(), flush=True)
        before = after
    return floods


def judge(floods: list[Flood]) -> list[str]:
    """Print the medians; return the missed limits."""
    found = []
    for multiple in MULTIPLES:
        share = Spread.of([flood.share for flood in floods if flood.multiple == multiple])
        print(f"{multiple:.0f} x the peak: {share.median:.2f} of it is served, {share.low:.2f} to {share.high:.2f}")
        if multiple == PROMISED_MULTIPLE and share.median < GOODPUT_MIN:
            found.append(f"at {multiple:.0f} x only {share.median:.2f} of the peak is served")
    first, last = floods[len(MULTIPLES) - 1].served, floods[-1].served
    found += [
        f"{name} grew by {(last.memory[name] - first.memory[name]) >> 20} MiB from the first overload to the last"
        for name in last.memory
        if last.memory[name] - first.memory[name] > GROWTH_MAX_BYTES
    ]
    return found


def main() -> int:
    """Measure, audit and compare with the limits."""
    parser = argparse.ArgumentParser(prog="bench-overload", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="how long each load lasts (5)")
    parser.add_argument("--rounds", type=int, default=4, help="how often each overload is measured (4)")
    arguments = parser.parse_args()
    try:
        with servers() as running, running_shop(running, make_catalogue(running.postgres_url)) as shop:
            began = time.monotonic()
            floods = measure(running, shop, arguments.rounds, arguments.seconds)
            report = shop.audit()
            print(f"{report['orders']} orders audited, all books agree ({time.monotonic() - began:.0f} s)")
    except (MissingError, LoadError, BooksError) as error:
        print(error, file=sys.stderr)
        return 2
    wrong = judge(floods)
    print("\n".join(wrong) if wrong else "it serves what it can, and refuses the rest immediately")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
