"""Two cells and two product shards behind HAProxy, in jwt mode, beside one plain cell in jwt mode."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench.checkout.auth import verify_all
from tests.bench.checkout.catalogue import Catalogue, make_catalogue
from tests.bench.checkout.pairs import CLIENTS, Instance
from tests.bench.checkout.round import UsedCatalogue
from tests.bench.checkout.shop import Shop, addresses, running_shop, service_environment, started
from tests.bench.checkout.tokens import UserTokens
from tests.bench.servers import POSTGRES_SETTINGS, REPOSITORY, Servers, find_tool
from tests.infrastructure.broker import declare_topic
from tests.infrastructure.databases import Database
from tests.infrastructure.postgres import packaged_binaries, postmaster_of, start_binaries, system_binaries
from tests.infrastructure.router import router
from tests.infrastructure.waiting import free_ports

SLOTS = ("0-2047", "2048-4095")  # of the cells, and of the shards
SINCE, SINCE_MILLISECONDS = "2020-01-01T00:00:00Z", 1_577_836_800_000
OWN = ("order", "coupon", "balance", "relay")  # what a cell has to itself
ROUTED = OWN[:3]
PARTITIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells(Shop):
    """Several cells as one shop, which has all their orders. `cells`: each with its own database and settings."""

    cells: Sequence[Shop]

    def orders_by_status(self) -> dict[str, int]:
        """Return the numbers of orders by status, once no saga is live. Raises DeadlineError if one stays live."""
        counts: Counter[str] = Counter()
        for cell in self.cells:
            counts.update(cell.orders_by_status())
        return dict(counts)

    def audit(self) -> Mapping[str, Any]:
        """Audit all cells with the operators' own command. Raises BooksError with the findings."""
        return {"orders": sum(cell.audit()["orders"] for cell in self.cells)}


@contextmanager
def cell_instances(running: Servers) -> Iterator[tuple[Instance, Instance]]:
    """Run the product on the server that runs, and as two cells on another one. All tokens were verified once."""
    wrk = find_tool("wrk", "wrk")
    find_tool("haproxy", "haproxy", [Path("/usr/sbin")])
    url = start_binaries(system_binaries() or packaged_binaries(), running.reaper, POSTGRES_SETTINGS)
    other = replace(running, postgres_url=url, postmaster=postmaster_of(url))
    with tempfile.TemporaryDirectory() as folder:
        tokens = UserTokens(Path(folder)).create()
        with (
            running_shop(running, make_catalogue(running.postgres_url), tokens=tokens) as plain,
            two_cells(other, make_catalogue(url), tokens) as (cells, haproxy),
        ):
            for shop in (plain, cells):
                asyncio.run(verify_all(shop))
            used = [UsedCatalogue(wrk, seed=1) for _ in range(2)]
            yield (
                Instance("plain", plain, used[0], {"postgres": running.postmaster}),
                Instance(
                    "two cells",
                    cells,
                    used[1],
                    {"postgres": other.postmaster, "haproxy": haproxy},
                    len(SLOTS) * CLIENTS,
                ),
            )


@contextmanager
def two_cells(servers: Servers, catalogue: Catalogue, tokens: UserTokens) -> Iterator[tuple[Cells, int]]:
    """Run two cells and two product shards, each with a database of its own; yield them, and HAProxy's process id.

    Each database has all users and products, and is asked for half of them.
    """
    with ExitStack() as stack:
        backends: dict[str, list[tuple[int, int]]] = {}
        processes: dict[str, subprocess.Popen[bytes]] = {}
        shards: list[int] = []
        for number, slots in enumerate(SLOTS):
            database = stack.enter_context(catalogue.copy())
            port, internal = free_ports(2)
            environment = service_environment(database, {"product": port}, servers.kafka)
            environment |= tokens.settings({"product": internal}) | {"PRODUCT_SLOTS": slots}
            shard = stack.enter_context(started({"product": port}, environment, servers))
            processes[f"product-{number}"] = shard["product"]
            backends[f"product-{number}"] = [(port, internal)]
            shards.append(internal)
        cells = []
        for number in range(len(SLOTS)):
            database, cell_ports = stack.enter_context(catalogue.copy()), _ports(free_ports(2 * len(OWN)))
            cell = stack.enter_context(_cell(servers, database, cell_ports, tokens, _settings(number, shards)))
            processes |= {f"{name}-of-cell-{number}": process for name, process in cell.processes.items()}
            backends |= {f"cell-{number}-{name}": [cell_ports[name]] for name in ROUTED}
            cells.append(cell)
        running = stack.enter_context(
            router(backends, servers.reaper, since_milliseconds=SINCE_MILLISECONDS, says_what=False)
        )
        # The load runs a wrk for each address.
        urls = {f"order-{number}": running.url for number in range(len(SLOTS))}
        first = cells[0]
        shop = Cells(first.database, urls, processes, first.environment, tokens.file, cells=cells)
        yield shop, running.process.pid


def _ports(numbers: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Return the ports of a cell's services: for clients, and for other services and probes."""
    return dict(zip(OWN, zip(numbers[::2], numbers[1::2], strict=True), strict=True))


@contextmanager
def _cell(
    servers: Servers,
    database: Database,
    both_ports: Mapping[str, tuple[int, int]],
    tokens: UserTokens,
    settings: Mapping[str, str],
) -> Iterator[Shop]:
    """Run the services of a cell."""
    ports = {name: port for name, (port, _) in both_ports.items()}
    environment = {**service_environment(database, ports, servers.kafka), **settings}
    environment |= tokens.settings({name: internal for name, (_, internal) in both_ports.items()})
    declare_topic(servers.kafka, environment["RELAY_TOPIC"], PARTITIONS)
    command = [sys.executable, "-m", "services.relay", "bootstrap"]
    subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    with started(ports, environment, servers) as processes:
        yield Shop(database, addresses(ports), processes, environment)


def _settings(number: int, shards: Sequence[int]) -> dict[str, str]:
    """Return what makes a cell of these services."""
    return {
        "CELL_SLOTS": SLOTS[number] if number else f"{SLOTS[number]} older",
        "CELL_SLOTS_SINCE": SINCE,
        "RELAY_TOPIC": f"orders.c0{number}.v1",
        # The cells share this machine's cores, as replicas do: see the order service's README.
        "ORDER_BATCHES_AT_ONCE": str(max(1, (os.cpu_count() or 1) // len(SLOTS))),
        "ORDER_PRODUCT_URLS": " ".join(f"http://127.0.0.1:{port}" for port in shards),
    }
