"""`make bench-overload`: what the product does when more customers come than it can serve.

Its peak is found with clients who wait for their answers. Then customers come at multiples of it, whether or not the
last ones were served. It has to go on serving nearly as many, refuse the others at once, and not grow.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from tests.bench.checkout.catalogue import make_catalogue, settle
from tests.bench.checkout.load import Load, LoadError
from tests.bench.checkout.round import Till, buy
from tests.bench.checkout.servers import REPOSITORY, MissingError, Servers, find_tool, servers
from tests.bench.checkout.shop import BooksError, Shop, running_shop

PEAK_CLIENTS = (64, 256)
MULTIPLES = (1.0, 2.0, 4.0, 2.0, 4.0)  # the second time shows whether memory still grows
GOODPUT_MIN = 0.8
# Heaps settle at what the first overload needed; what a second one adds beyond this would go on.
GROWTH_MAX_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Flood:
    """Customers at a multiple of the peak: what they were answered, and each process' memory afterwards."""

    multiple: float
    told: Mapping[str, Any]
    memory: Mapping[str, int]

    def line(self, peak: float) -> str:
        """A line of the table."""
        statuses = self.told["statuses"]
        share = self.told["goodput"] / peak
        return (
            f"{self.multiple:>4.1f} x: {self.told['goodput']:6.0f}/s served ({share:.2f} of the peak), "
            f"p50 {self.told['p50_ms']:.0f} ms, p99 {self.told['p99_ms']:.0f} ms; "
            f"{statuses.get('503', 0)} refused, p99 {self.told['refused_p99_ms']:.0f} ms; "
            f"others: { {status: n for status, n in statuses.items() if status not in ('201', '503')} }, "
            f"no connection {self.told['without_connection']}, broken {self.told['broken']}; "
            f"MiB: {', '.join(f'{name} {size >> 20}' for name, size in self.memory.items())}"
        )


def flood(shop: Shop, multiple: float, rate: float, seconds: int, seed: int) -> Flood:
    """Let them come, in a process of their own."""
    command = [sys.executable, "-m", "tests.bench.overload.client", shop.urls["order"], f"{rate:.1f}"]
    ran = subprocess.run(
        [*command, str(seconds), str(seed)], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    shop.orders_by_status()  # waits until nothing is under way
    memory = {name: psutil.Process(process.pid).memory_info().rss for name, process in shop.processes.items()}
    return Flood(multiple, json.loads(ran.stdout), memory)


def find_peak(running: Servers, shop: Shop, wrk: str, seconds: int) -> float:
    """The best rate with clients who wait for their answers."""
    till = Till(wrk, 1)
    buy(shop, Load("cold", PEAK_CLIENTS[0], 2), till)
    settle(running.postgres_url)
    rates = [buy(shop, Load("cold", clients, seconds), till).rate for clients in PEAK_CLIENTS]
    print("peak: " + ", ".join(f"{rate:.0f}/s" for rate in rates), flush=True)
    return max(rates)


def failures(floods: list[Flood], peak: float) -> list[str]:
    """What is not as it should be."""
    found = [
        f"at {one.multiple} x only {one.told['goodput'] / peak:.2f} of the peak is served"
        for one in floods
        if one.multiple >= 2 and one.told["goodput"] < GOODPUT_MIN * peak
    ]
    first, last = floods[2], floods[-1]
    found += [
        f"{name} grew by {(last.memory[name] - first.memory[name]) >> 20} MiB from one overload to the next"
        for name in last.memory
        if last.memory[name] - first.memory[name] > GROWTH_MAX_BYTES
    ]
    return found


def main() -> int:
    """Measure, audit, judge."""
    parser = argparse.ArgumentParser(prog="bench-overload", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="how long each load lasts (8)")
    seconds = parser.parse_args().seconds
    try:
        wrk = find_tool("wrk", "wrk")
        with servers() as running, running_shop(running, make_catalogue(running.postgres_url)) as shop:
            began = time.monotonic()
            peak = find_peak(running, shop, wrk, seconds)
            floods = []
            for number, multiple in enumerate(MULTIPLES):
                floods.append(flood(shop, multiple, multiple * peak, seconds, number))
                print(floods[-1].line(peak), flush=True)
            report = shop.audit()
            print(f"{report['orders']} orders audited, all books agree ({time.monotonic() - began:.0f} s)")
    except (MissingError, LoadError, BooksError) as error:
        print(error, file=sys.stderr)
        return 2
    wrong = failures(floods, peak)
    print("\n".join(wrong) if wrong else "it serves what it can, and refuses the rest at once")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
