"""`make bench-cells`: the CPU of a checkout with two product shards, and with two cells behind the router.

Both are compared with the product as it is without them. Two instances of the product run on two Postgres servers, and
are measured in turn, in pairs of short turns whose order alternates.

- `shards`: one instance has two product services, each with a database of its own on that server. Of the checkouts with
  several lines, most need both shards.
- `cells`: one instance has two cells and two product shards behind HAProxy, with twice as many clients.

Counted are the services, the Postgres server and HAProxy. The broker serves both instances.
Exit status: 0; 1 if a promised ratio was missed; 2 if a round failed or this machine lacks what it takes.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tests.bench.checkout.catalogue import Catalogue, make_catalogue
from tests.bench.checkout.pairs import Instance, Instances, options, run
from tests.bench.checkout.round import UsedCatalogue
from tests.bench.checkout.shop import Shop, addresses, running_shop, service_environment, started
from tests.bench.checkout.two_cells import cell_instances
from tests.bench.servers import POSTGRES_SETTINGS, REPOSITORY, Servers, find_tool
from tests.infrastructure.postgres import packaged_binaries, postmaster_of, start_binaries, system_binaries
from tests.infrastructure.waiting import free_ports

RATIO_MAX, CELLS_RATIO_MAX = 1.1, 1.25
SECOND = "product-1"
OTHERS = ("order", "product-0", "coupon", "balance", "relay")


@contextmanager
def instances(running: Servers) -> Iterator[tuple[Instance, Instance]]:
    """Run the product on the server that runs, and with two product shards on another one."""
    wrk = find_tool("wrk", "wrk")
    url = start_binaries(system_binaries() or packaged_binaries(), running.reaper, POSTGRES_SETTINGS)
    other = replace(running, postgres_url=url, postmaster=postmaster_of(url))
    with (
        running_shop(running, make_catalogue(running.postgres_url)) as plain,
        sharded_shop(other, make_catalogue(url)) as sharded,
    ):
        yield (
            Instance("plain", plain, UsedCatalogue(wrk, seed=1), {"postgres": running.postmaster}),
            Instance("two shards", sharded, UsedCatalogue(wrk, seed=1), {"postgres": other.postmaster}),
        )


@contextmanager
def sharded_shop(servers: Servers, catalogue: Catalogue) -> Iterator[Shop]:
    """Run the product with two product services. Both have all products, and are asked for half of them."""
    with catalogue.copy() as database, catalogue.copy() as second:
        ports = dict(zip((*OTHERS, SECOND), free_ports(len(OTHERS) + 1), strict=True))
        urls = addresses(ports)
        environment = service_environment(database, {name: ports[name] for name in OTHERS}, servers.kafka)
        environment["ORDER_PRODUCT_URLS"] = f"{urls['product-0']} {urls[SECOND]}"
        theirs = {**environment, "PRODUCT_DATABASE_URL": second.as_role("product_service")}
        command = [sys.executable, "-m", "services.relay", "bootstrap"]
        subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        with (
            started({SECOND: ports[SECOND]}, theirs, servers) as shard,
            started({name: ports[name] for name in OTHERS}, environment, servers) as processes,
        ):
            yield Shop(database, urls, {**processes, **shard}, environment)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is measured: the instances, in words, how many pairs, and the promised ratio."""

    instances: Instances
    what: str
    pairs: int
    ratio_max: float


COMPARISONS = {
    "shards": Comparison(instances, "with two product shards", 20, RATIO_MAX),
    "cells": Comparison(cell_instances, "with two cells behind the router", 10, CELLS_RATIO_MAX),
}


def main() -> int:
    """Measure all, or one of them; return the worst exit status."""
    parser = options("bench-cells", __doc__, pairs=0, seconds=3)
    parser.add_argument("--only", choices=list(COMPARISONS), help="measure this only")
    arguments = parser.parse_args()
    chosen = [one for name, one in COMPARISONS.items() if arguments.only in (None, name)]
    return max(
        run(one.instances, one.what, one.ratio_max, arguments.pairs or one.pairs, arguments.seconds) for one in chosen
    )


if __name__ == "__main__":
    sys.exit(main())
