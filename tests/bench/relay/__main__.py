"""`make bench-relay`: how fast the relay is, beside a plain loop, with Postgres, Kafka and consumer on one machine."""

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from tests.bench.relay.events import INSERT, rows
from tests.bench.relay.figures import FIGURES, missed, percentile, table
from tests.bench.relay.plant import REPOSITORY, Scene, Servers, scene, servers, until_told

REPORT = REPOSITORY / ".local" / "bench-relay.json"
BACKLOG = 120_000  # four seconds and more of draining
PLAIN_BACKLOG = 2_000
SECONDS = 10  # at each rate; the first WARM_SECONDS don't count
WARM_SECONDS = 2
# Before anything counts: a broker that has just started interprets its code, and answers in three times as long.
WARM_UP_RATE, WARM_UP_SECONDS = 2000, 40
PATIENCE_SECONDS = 90
# A transaction of the order service carries what came while the one before was under way.
PER_TRANSACTION = {500: 4, 2000: 8}


async def fill(scene: Scene, count: int) -> None:
    """Write a backlog."""
    connection = await asyncpg.connect(scene.database.as_role("order_service"))
    try:
        for first in range(0, count, 2000):
            await connection.execute(INSERT, *rows(first, min(2000, count - first)))
        await connection.execute("VACUUM ANALYZE orders.outbox")  # as autovacuum does while a backlog grows
    finally:
        await connection.close()


async def drain(servers: Servers, count: int, *, plain: bool, **settings: str) -> float:
    """Return how many events a second reach a consumer while there is a backlog."""
    with scene(servers) as here:
        await fill(here, count)
        consumer, path = here.consumer(count, PATIENCE_SECONDS)
        if plain:
            here.start("tests.bench.relay.plain", here.database.as_role("relay_service"), servers.kafka, here.topic)
        else:
            here.relay(**settings)
        received = sorted(await asyncio.to_thread(here.times, consumer, path, PATIENCE_SECONDS))
    return (count - 1) / (received[-1] - received[0])


async def latency(servers: Servers, rate: int, seconds: float, *, plain: bool = False, **settings: str) -> list[float]:
    """Return the milliseconds from each event's commit to its consumer."""
    count = int(rate * seconds)
    with scene(servers) as here:
        if plain:
            arguments = (here.database.as_role("relay_service"), servers.kafka, here.topic)
            await asyncio.to_thread(until_told, here.start("tests.bench.relay.plain", *arguments))
        else:
            here.relay(**settings)
            await here.taken()
        consumer, received_path = here.consumer(count, seconds + PATIENCE_SECONDS)
        path = servers.folder / f"committed-{here.topic}"
        url = here.database.as_role("order_service")
        writer = here.start(
            "tests.bench.relay.writer", url, str(rate), str(PER_TRANSACTION[rate]), str(count), str(path)
        )
        committed = await asyncio.to_thread(here.times, writer, path, seconds + PATIENCE_SECONDS)
        received = await asyncio.to_thread(here.times, consumer, received_path, seconds + PATIENCE_SECONDS)
    both = zip(committed, received, strict=True)
    return [(there - here_) * 1000 for here_, there in list(both)[int(rate * WARM_SECONDS) :]]


def summed_up(name: str, milliseconds: list[float]) -> dict[str, float]:
    """The figures of a measurement of latency."""
    return {f"{name}_p50": statistics.median(milliseconds), f"{name}_p99": percentile(milliseconds, 0.99)}


async def measure(servers: Servers, only: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the relay's figures and the plain loop's."""
    ours: dict[str, float] = {}
    loops: dict[str, float] = {}
    await latency(servers, WARM_UP_RATE, WARM_UP_SECONDS)
    if only in ("", "drain"):
        ours["drain"] = await drain(servers, BACKLOG, plain=False)
        told("drain", ours)
    if only in ("", "500"):
        ours |= summed_up("latency_500", await latency(servers, 500, SECONDS))
        told("500/s", ours)
    if only in ("", "2000"):
        ours |= summed_up("latency_2000", await latency(servers, 2000, SECONDS))
        told("2,000/s", ours)
    if only in ("", "plain-sends"):
        without = await latency(servers, 2000, SECONDS, RELAY_TRANSACTIONS="false")
        ours |= summed_up("plain_sends_2000", without)
        told("2,000/s without transactions", ours)
    if only in ("", "loop"):
        loops["drain"] = await drain(servers, PLAIN_BACKLOG, plain=True)
        loops |= summed_up("latency_500", await latency(servers, 500, SECONDS / 2, plain=True))
        told("the plain loop", loops)
    return ours, loops


def told(what: str, figures: Mapping[str, float]) -> None:
    """Say how far it is."""
    print(
        f"{time.strftime('%H:%M:%S')} {what}:", {name: round(value, 1) for name, value in figures.items()}, flush=True
    )


def report(ours: Mapping[str, float], loops: Mapping[str, float], path: Path) -> None:
    """Leave the figures for other programs."""
    path.parent.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    content = {"measured": dict(ours), "plain_loop": dict(loops), "missed": missed(ours), "machine": machine}
    path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> int:
    """Measure, print the table, and return 1 if a figure is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay", description=__doc__)
    parser.add_argument("--only", default="", choices=["drain", "500", "2000", "plain-sends", "loop"])
    arguments = parser.parse_args()
    with servers() as plant:
        ours, loops = asyncio.run(measure(plant, arguments.only))
    print(table(ours, loops))
    if arguments.only:  # a look at one figure is no report
        return 0
    report(ours, loops, REPORT)
    lines = missed(ours)
    print("\n".join(["", "missed:", *lines] if lines else ["", f"every one of the {len(FIGURES)} figures is kept"]))
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
