"""`make bench-outbox`: whether a million published events make the outbox grow, or the next claim slower."""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from services.relay import store
from services.relay.domain.shards import Lease
from services.relay.outbox_cleaner import clean
from services.relay.settings import RelaySettings
from shared.connecting import connect
from tests.bench.relay.events import INSERT, rows
from tests.infrastructure.databases import fresh_database
from tests.infrastructure.postgres import packaged_binaries, start_binaries, system_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import migrate_service

EVENTS = 1_000_000
ROUND = 2_000  # written, then published: some 500 a shard
SHARDS = range(4)
LEASE_SECONDS = 600.0
PARTS = 10
# How much more of the server's time an event's claim and mark may take in the last tenth than in the first. Trees get a
# level deeper, sweeps take a fiftieth for each shard; the rest is what two runs of the same differ by. Claims that walk
# over all that was published take several times as much by then (`--only naive`).
GROWTH_MAX = 1.6
TICKS = os.sysconf("SC_CLK_TCK")
# A partition's worth of bytes is left when everything else is dropped; empty ones have a few pages.
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
    """What a tenth of the events cost: seconds of each cycle, and how the outbox was stored at its end."""

    cycles: list[float] = field(default_factory=list)
    events: int = 0
    server_seconds: float = 0.0
    stored: asyncpg.Record | None = None

    @property
    def median(self) -> float:
        """Milliseconds of a cycle."""
        return statistics.median(self.cycles) * 1000

    @property
    def per_event(self) -> float:
        """Microseconds that the server works for an event, sweeps included."""
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
        """Take every shard."""
        for shard in SHARDS:
            lease = await store.take_lease(self.relay, shard, "bench", LEASE_SECONDS)
            assert lease is not None
            self.leases.append(lease)

    async def publish(self, part: Part) -> None:
        """Publish all that waits, as a relay does whose broker takes no time."""
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
        """Write and publish `count` events, and return what each tenth of them cost."""
        await self.take()
        pid = await self.relay.fetchval("SELECT pg_backend_pid()")
        parts = []
        for number in range(PARTS):
            part, before = Part(), worked(pid)
            for first in range(number * count // PARTS, (number + 1) * count // PARTS, ROUND):
                await self.order.execute(INSERT, *rows(first, ROUND))
                await self.publish(part)
            part.server_seconds = worked(pid) - before
            part.stored = await self.root.fetchrow(SIZES)
            parts.append(part)
        return parts

    async def remove(self) -> asyncpg.Record:
        """Rotate and drop what is published, and return how the outbox is stored then."""
        deadline = time.monotonic() + DROP_SECONDS
        while True:
            await clean(self.relay, 0, 0)
            stored = await self.root.fetchrow(SIZES)
            assert stored is not None
            if stored["table_bytes"] <= LEFT_BYTES_MAX or time.monotonic() > deadline:
                return stored
            await asyncio.sleep(1)  # as the cleaner does: a vacuum under way puts a drop off


def worked(pid: int) -> float:
    """The seconds that a process of this machine has worked. The clock would count what its neighbours do as well."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


@asynccontextmanager
async def bench(server: str, mode: Mode) -> AsyncIterator[Bench]:
    """A fresh outbox, with whatever the mode asks for open beside it."""
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
    """The parts that tell most: first, middle and last."""
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
    """Measure a mode, print it, and return what is wrong with it."""
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
    """Measure each mode on a server of its own making, and return how many are not as they should be."""
    reaper = Reaper()
    try:
        # Always one of its own: it reads what the server's processes have worked.
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
