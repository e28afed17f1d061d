"""`make bench-standby`: the CPU of a checkout with a synchronous standby, compared with a Postgres server alone.

Two instances of the product run on two servers. One server has a standby on this machine, and each commit waits until
the standby has it on disk. The instances are measured in turn, in pairs of short turns whose order alternates.

Counted are the five services, the server and its standby. The broker serves both instances.
Exit status: 0; 1 if the promised ratio was missed; 2 if a round failed or this machine lacks what it takes.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.bench.checkout.catalogue import make_catalogue
from tests.bench.checkout.pairs import Instance, compare
from tests.bench.checkout.round import UsedCatalogue
from tests.bench.checkout.shop import running_shop
from tests.bench.servers import POSTGRES_SETTINGS, Servers, find_tool
from tests.infrastructure.postgres import (
    packaged_binaries,
    postmaster_of,
    start_binaries,
    start_standby,
    system_binaries,
)

RATIO_MAX = 1.3


@contextmanager
def instances(running: Servers) -> Iterator[tuple[Instance, Instance]]:
    """Run the product on the server that runs, and on one with a standby."""
    wrk = find_tool("wrk", "wrk")
    binaries = system_binaries() or packaged_binaries()
    # Its name is the standby's, so it counts once it follows.
    url = start_binaries(binaries, running.reaper, [*POSTGRES_SETTINGS, "synchronous_standby_names=standby"])
    standby = start_standby(binaries, running.reaper, url, [*POSTGRES_SETTINGS, "cluster_name=standby"])
    followed = replace(running, postgres_url=url, postmaster=postmaster_of(url))
    catalogues = [make_catalogue(server.postgres_url) for server in (running, followed)]
    with running_shop(running, catalogues[0]) as alone, running_shop(followed, catalogues[1]) as waiting:
        yield (
            Instance("alone", alone, UsedCatalogue(wrk, seed=1), {"postgres": running.postmaster}),
            Instance(
                "with a standby",
                waiting,
                UsedCatalogue(wrk, seed=1),
                {"postgres": followed.postmaster, "standby": standby},
            ),
        )


if __name__ == "__main__":
    sys.exit(compare("bench-standby", __doc__, instances, "with a standby", RATIO_MAX, pairs=20, seconds=3))
