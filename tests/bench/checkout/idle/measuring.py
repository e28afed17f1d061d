"""Records one load: what every process did at random moments, and the batches of the order service."""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.bench.checkout.catalogue import Catalogue
from tests.bench.checkout.idle import recorded_order
from tests.bench.checkout.idle.moments import Batch, Recording, Sample, Slot
from tests.bench.checkout.idle.sampler import SYNC_CALLS
from tests.bench.checkout.load import Load
from tests.bench.checkout.round import UsedCatalogue, buy
from tests.bench.checkout.shop import Shop, running_shop
from tests.bench.servers import REPOSITORY, MissingError, Servers, find_tool

SERVICES = ("order", "product", "coupon", "balance", "relay")
WARM_SECONDS = 4
# Left out at both ends of a load, when clients open their connections and stop.
EDGE_SECONDS = 0.5
BUSY_SECONDS = 0.05  # of CPU: a thread of Kafka that used less hardly takes part in a load


def require_sampler() -> None:
    """Raise MissingError unless this machine has what the sampler reads."""
    if not Path("/proc/self/syscall").exists() or platform.machine() not in SYNC_CALLS:
        raise MissingError("what idle cores wait for is sampled on Linux only, on x86_64 or aarch64")


def record(started: Servers, catalogue: Catalogue, load: Load, *, orders: int = 1) -> Recording:
    """Run the load on a shop of its own and record it. Raises LoadError or BooksError."""
    with tempfile.TemporaryDirectory(prefix="order-platform-idle-") as folder:
        settings = {recorded_order.FOLDER: folder}
        program = recorded_order.__name__
        with running_shop(started, catalogue, orders=orders, order_program=program, settings=settings) as shop:
            used_catalogue = UsedCatalogue(find_tool("wrk", "wrk"), seed=1)
            buy(shop, Load(load.scenario, load.clients, WARM_SECONDS, load.keyed), used_catalogue)
            with _sampled(started, shop, Path(folder) / "samples") as samples:
                answers = buy(shop, load, used_catalogue)
            shop.audit()
        orders_batches = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    return _recording(samples, orders_batches, answers.rate)


@contextmanager
def _sampled(started: Servers, shop: Shop, path: Path) -> Iterator[dict[str, Any]]:
    """Sample while the body runs, and then fill the yielded dictionary."""
    command = [sys.executable, "-m", "tests.bench.checkout.idle.sampler", str(path)]
    command += [f"{group}={pid}" for group, pid in _processes(started, shop)]
    sampler = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE)
    assert sampler.stdin is not None
    found: dict[str, Any] = {}
    try:
        yield found
    finally:
        sampler.stdin.close()
        status = sampler.wait()
    if status != 0:
        raise RuntimeError(f"the sampler ended with {status}; it needs the right to trace other processes")
    found |= json.loads(path.read_text())


def _processes(started: Servers, shop: Shop) -> Iterator[tuple[str, int]]:
    """Yield every process that is sampled, with its group: a service, or Postgres for a service."""
    for name, process in shop.processes.items():
        yield name.partition("-")[0], process.pid
    with psycopg.connect(started.postgres_url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid, application_name, backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        ).fetchall()
    for pid, application, kind in rows:
        service = application.partition(" ")[0]
        if service in SERVICES:
            yield f"Postgres {service}", pid
        elif kind == "walwriter":
            yield "WAL writer", pid
    if started.broker is not None:
        for thread in psutil.Process(started.broker).threads():
            if thread.user_time + thread.system_time >= BUSY_SECONDS:
                yield "Kafka", thread.id


def _recording(samples: Mapping[str, Any], processes: list[Mapping[str, Any]], rate: float) -> Recording:
    first, last = samples["samples"][0][0], samples["samples"][-1][0]
    edge = int(EDGE_SECONDS * 1e9)
    return Recording(
        groups=samples["groups"],
        samples=[Sample(*taken) for taken in samples["samples"] if first + edge <= taken[0] <= last - edge],
        batches=[Batch(*row) for process in processes for row in process["batches"]],
        slots=[Slot(*row) for process in processes for row in process["slots"]],
        slot_count=sum(process["count"] for process in processes),
        cores=samples["cores"],
        rate=rate,
        own_cores=samples["own_cores"],
        idle_cores=samples["idle_cores"],
        priority=samples["priority"],
    )
