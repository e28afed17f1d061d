"""`make bench-outbox`: whether a million published events make the outbox grow, or the next claim slower."""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from deploy.local.progress import Progress
from services.relay import store
from services.relay.domain.shards import Lease
from services.relay.outbox_cleaner import clean
from services.relay.settings import RelaySettings
from shared.postgres.connecting import connect
from tests.bench.checkout.meters import process_seconds
from tests.bench.relay.events import INSERT, rows
from tests.infrastructure.databases import fresh_database
from tests.infrastructure.postgres import packaged_binaries, start_binaries, system_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import migrate_service

EVENTS = 1_000_000
ROUND = 2_000  # events written, then published: about 500 per shard
SHARDS = range(4)
LEASE_SECONDS = 600.0
PARTS = 10
# The limit for the server's time of an event's claim and mark in the last tenth, relative to the first. Trees get a
# level deeper, and sweeps take a fiftieth per shard; the rest is the variation between runs. Claims that read past all
# published events take several times as much by then (`--only naive`).
GROWTH_MAX = 1.6
# When everything else is dropped, one partition's bytes are left; empty partitions have a few pages.
LEFT_BYTES_MAX = 1_000_000
DROP_SECONDS = 60

SIZES = """
    SELECT coalesce(sum(pg_table_size(inhrelid)), 0)::bigint AS table_bytes,
           coalesce(sum(pg_indexes_size(inhrelid)), 0)::bigint AS index_bytes,
           coalesce(sum(pg_stat_get_dead_tuples(inhrelid)), 0)::bigint AS dead,
           count(*) AS partitions
    FROM pg_inherits WHERE inhparent = 'orders.outbox'::regclass
"""


@dataclass(frozen=True, slots=True)
class Mode:
    """`held`: another transaction keeps the xmin horizon. `naive`: every claim begins at the oldest event."""

    title: str
    held: bool = False
    naive: bool = False


MODES = {
    "normal": Mode("nothing else is open"),
    "held": Mode("another transaction holds the xmin horizon", held=True),
    "naive": Mode("the same, and claims begin at the oldest event", held=True, naive=True),
}


@dataclass(slots=True)
class Part:
    """The cost of a tenth of the events: seconds of each cycle, and the storage of the outbox at its end."""

    cycles: list[float] = field(default_factory=list)
    events: int = 0
    server_seconds: float = 0.0
    stored: asyncpg.Record | None = None

    @property
    def median(self) -> float:
        """Return the milliseconds per cycle."""
        return statistics.median(self.cycles) * 1000

    @property
    def per_event(self) -> float:
        """Return the server's microseconds per event, including sweeps."""
        return self.server_seconds / self.events * 1e6


@dataclass
class Bench:
    """One outbox, written by one connection and published by another."""

    root: asyncpg.Connection
    order: asyncpg.Connection
    relay: asyncpg.Connection
    mode: Mode
    leases: list[Lease] = field(default_factory=list)
    numbers: list[int] = field(default_factory=lambda: [0 for _ in SHARDS])

    async def take(self) -> None:
        """Take the lease of every shard."""
        for shard in SHARDS:
            lease = await store.take_lease(self.relay, shard, "bench", LEASE_SECONDS)
            assert lease is not None
            self.leases.append(lease)

    async def publish(self, part: Part) -> None:
        """Publish all pending events, like a relay with an infinitely fast broker."""
        waiting = set(SHARDS)
        while waiting:
            for shard in list(waiting):
                if self.mode.naive:
                    await self.root.execute("UPDATE relay.shards SET scan_from = 0, scan_next = 0")
                began = time.perf_counter()
                events = await store.cycle(
                    self.relay,
                    self.leases[shard],
                    self.numbers[shard],
                    lease_seconds=LEASE_SECONDS,
                    events_max=ROUND,
                    bytes_max=1 << 24,
                    in_transaction=True,
                )
                part.cycles.append(time.perf_counter() - began)
                part.events += len(events)
                if events:
                    self.numbers[shard] += 1
                else:
                    waiting.discard(shard)

    async def run(self, count: int) -> list[Part]:
        """Write and publish `count` events; return the cost of each tenth."""
        await self.take()
        pid = await self.relay.fetchval("SELECT pg_backend_pid()")
        parts = []
        for number in range(PARTS):
            part, before = Part(), process_seconds(pid)
            for first in range(number * count // PARTS, (number + 1) * count // PARTS, ROUND):
                await self.order.execute(INSERT, *rows(first, ROUND))
                await self.publish(part)
            part.server_seconds = process_seconds(pid) - before
            part.stored = await self.root.fetchrow(SIZES)
            parts.append(part)
        return parts

    async def remove(self) -> asyncpg.Record:
        """Rotate, drop the published partitions, and return the outbox' storage afterwards."""
        deadline = time.monotonic() + DROP_SECONDS
        while True:
            await clean(self.relay, 0, 0)
            stored = await self.root.fetchrow(SIZES)
            assert stored is not None
            if stored["table_bytes"] <= LEFT_BYTES_MAX or time.monotonic() > deadline:
                return stored
            await asyncio.sleep(1)  # like the cleaner: a running vacuum delays a drop


@asynccontextmanager
async def bench(server: str, mode: Mode) -> AsyncIterator[Bench]:
    """Open a new outbox, with the mode's other transaction."""
    async with AsyncExitStack() as stack:
        database = stack.enter_context(fresh_database(server))
        urls = [database.url, *(migrate_service(name, database) for name in ("order", "relay"))]
        connections: list[asyncpg.Connection] = []
        for url in urls:
            settings = RelaySettings(database_url=url, kafka_bootstrap_servers="127.0.0.1:1")
            connections.append(await connect(settings, "bench", hot=url == urls[1]))
            stack.push_async_callback(connections[-1].close)
        if mode.held:
            holder = await asyncpg.connect(database.url)
            stack.push_async_callback(holder.close)
            await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1")
        root, order, relay = connections
        yield Bench(root, order, relay, mode)


def table(parts: list[Part]) -> str:
    """Return the most informative parts: first, middle and last."""
    lines = [
        "| events so far | a cycle, median | the server's work for an event | dead tuples | table | indexes |",
        "|---|---|---|---|---|---|",
    ]
    total = 0
    for number, part in enumerate(parts):
        total += part.events
        assert part.stored is not None
        if number in (0, PARTS // 2 - 1, PARTS - 1):
            sizes = [f"{part.stored[name] / 1e6:,.0f} MB" for name in ("table_bytes", "index_bytes")]
            cells = [
                f"{total:,}",
                f"{part.median:.1f} ms",
                f"{part.per_event:.1f} us",
                f"{part.stored['dead']:,}",
                *sizes,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


async def measure(server: str, mode: Mode, count: int) -> list[str]:
    """Measure and print a mode; return its missed limits."""
    with Progress(f"{mode.title}: publishing {count:,} events"):
        async with bench(server, mode) as here:
            parts = await here.run(count)
            left = await here.remove()
    growth = parts[-1].per_event / parts[0].per_event
    left_bytes = left["table_bytes"] + left["index_bytes"]
    print(f"\n### {mode.title}\n\n{table(parts)}\n")
    print(
        f"An event takes {growth:.2f} times the work at the end that it takes at the beginning (at most {GROWTH_MAX})."
    )
    print(f"Rotated and dropped: {left['partitions']} partitions with {left_bytes / 1e6:.2f} MB are left.", flush=True)
    problems = []
    if growth > GROWTH_MAX:
        problems.append(f"{mode.title}: an event takes {growth:.2f} times the work after {count:,} events")
    if left_bytes > LEFT_BYTES_MAX:
        problems.append(f"{mode.title}: {left_bytes:,} bytes are left of what was published")
    return problems


async def main(names: list[str], count: int) -> int:
    """Measure each mode on a new server; return how many missed a limit."""
    reaper = Reaper()
    try:
        # Always a new server, because the CPU of the server's processes is read.
        server = start_binaries(system_binaries() or packaged_binaries(), reaper, ["max_connections=100"])
        problems = [problem for name in names for problem in await measure(server, MODES[name], count)]
    finally:
        reaper.close()
    for problem in problems:
        print(f"NOT KEPT: {problem}", file=sys.stderr)
    return len(problems)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make bench-outbox")
    parser.add_argument("--only", choices=sorted(MODES), action="append", help="this mode, which may be the naive one")
    parser.add_argument("--events", type=int, default=EVENTS, help=f"a multiple of {ROUND * PARTS}")
    arguments = parser.parse_args()
    raise SystemExit(min(1, asyncio.run(main(arguments.only or ["normal", "held"], arguments.events))))
