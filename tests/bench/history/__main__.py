"""`make bench-history`: whether a checkout costs the same with a million past orders and without any."""

import argparse
import sys
import time

from deploy.local.progress import Progress
from tests.bench.checkout.catalogue import make_catalogue, wait_for_checkpoint
from tests.bench.checkout.load import LoadError
from tests.bench.checkout.shop import BooksError, audited
from tests.bench.history.curve import compare
from tests.bench.history.seed import seed
from tests.bench.servers import MissingError, find_tool, servers


def main() -> int:
    """Seed, measure alternately, audit both, and return whether the limit is kept."""
    parser = argparse.ArgumentParser(prog="bench-history", description=__doc__)
    parser.add_argument("--orders", type=int, default=1_000_000, help="finished orders in the past (1000000)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each database (5)")
    parser.add_argument("--seconds", type=int, default=6, help="length of a measurement (6)")
    arguments = parser.parse_args()
    try:
        wrk = find_tool("wrk", "wrk")
        with servers() as running:
            catalogue = make_catalogue(running.postgres_url)
            with catalogue.copy() as empty, catalogue.copy() as past:
                began = time.monotonic()
                with Progress(f"making {arguments.orders:,} orders of the past"):
                    seed(past.url, arguments.orders)
                    wait_for_checkpoint(running.postgres_url)
                print(f"{arguments.orders} orders of the past, made in {time.monotonic() - began:.0f} s", flush=True)
                with Progress(f"measuring {arguments.rounds} times with and without them"):
                    curve = compare(running, wrk, empty, past, rounds=arguments.rounds, seconds=arguments.seconds)
                print("\n".join(curve.lines()), flush=True)
                for name, database in (("empty", empty), ("past", past)):
                    with Progress("comparing every order with the books"):
                        report = audited(running, database)
                    print(f"{name}: {report['orders']} orders audited, {report['violations']} violations")
    except (MissingError, LoadError, BooksError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if curve.holds else 1


if __name__ == "__main__":
    sys.exit(main())
