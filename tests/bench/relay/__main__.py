"""`make bench-relay`: the relay's speed, compared with a plain loop; Postgres, Kafka and consumer on one machine."""

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from tests.bench.relay.events import INSERT, rows
from tests.bench.relay.figures import FIGURES, missed, percentile, table
from tests.bench.relay.measurement import POSTGRES_SETTINGS, Measurement, measurement, until_told
from tests.bench.servers import REPOSITORY, Servers, servers

REPORT = REPOSITORY / ".local" / "bench-relay.json"
BACKLOG = 120_000  # takes at least four seconds to drain
PLAIN_BACKLOG = 2_000
ROUNDS = 3
SECONDS = 10  # at each rate; the first WARM_SECONDS don't count
WARM_SECONDS = 2
# Before the measurement: a new broker interprets its code, takes three times as long to answer, and uses half a core to
# compile. This rate has the most transactions; at a higher one the relay delays batches.
WARM_UP_RATE, WARM_UP_SECONDS = 500, 150
PATIENCE_SECONDS = 90
# A transaction of the order service has the events that arrived during the previous one.
PER_TRANSACTION = {500: 4, 2000: 8}

Rounds = dict[str, list[float]]  # a figure's value in every round


async def fill(measured: Measurement, count: int) -> None:
    """Write a backlog."""
    connection = await asyncpg.connect(measured.database.as_role("order_service"))
    try:
        for first in range(0, count, 2000):
            await connection.execute(INSERT, *rows(first, min(2000, count - first)))
        await connection.execute("VACUUM ANALYZE orders.outbox")  # as autovacuum does while a backlog grows
    finally:
        await connection.close()


async def drain(servers: Servers, count: int, *, plain: bool, **settings: str) -> float:
    """Return how many events per second reach a consumer while there is a backlog."""
    with measurement(servers) as here:
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
    with measurement(servers) as here:
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
    """Return the figures of a latency measurement."""
    return {f"{name}_p50": statistics.median(milliseconds), f"{name}_p99": percentile(milliseconds, 0.99)}


async def measure(servers: Servers, only: str) -> tuple[Rounds, Rounds]:
    """Return the relay's figures and the plain loop's, of every round."""
    ours: Rounds = defaultdict(list)
    loops: Rounds = defaultdict(list)
    await latency(servers, WARM_UP_RATE, WARM_UP_SECONDS)
    for _ in range(ROUNDS):
        if only in ("", "drain"):
            keep(ours, {"drain": await drain(servers, BACKLOG, plain=False)})
        if only in ("", "500"):
            keep(ours, summed_up("latency_500", await latency(servers, 500, SECONDS)))
        if only in ("", "2000"):
            keep(ours, summed_up("latency_2000", await latency(servers, 2000, SECONDS)))
        if only in ("", "plain-sends"):
            without = await latency(servers, 2000, SECONDS, RELAY_TRANSACTIONS="false")
            keep(ours, summed_up("plain_sends_2000", without))
        if only in ("", "loop"):
            keep(loops, {"drain": await drain(servers, PLAIN_BACKLOG, plain=True)}, "the plain loop's ")
            slow = await latency(servers, 500, SECONDS / 2, plain=True)
            keep(loops, summed_up("latency_500", slow), "the plain loop's ")
    return ours, loops


def keep(rounds: Rounds, figures: Mapping[str, float], whose: str = "") -> None:
    """Store the figures of a round, and print the progress."""
    for name, value in figures.items():
        rounds[name].append(value)
        print(f"{time.strftime('%H:%M:%S')} {whose}{name}: {value:,.1f}", flush=True)


def medians(rounds: Rounds) -> dict[str, float]:
    """Return the median of every figure."""
    return {name: statistics.median(values) for name, values in rounds.items()}


def report(ours: Rounds, loops: Rounds, path: Path) -> None:
    """Write the figures for other programs."""
    path.parent.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    content = {
        "measured": medians(ours),
        "plain_loop": medians(loops),
        "rounds": {"measured": ours, "plain_loop": loops},
        "missed": missed(medians(ours)),
        "machine": machine,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> int:
    """Measure, print the table, and return 1 if a figure is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay", description=__doc__)
    parser.add_argument("--only", default="", choices=["drain", "500", "2000", "plain-sends", "loop"])
    arguments = parser.parse_args()
    with servers(POSTGRES_SETTINGS) as started:
        ours, loops = asyncio.run(measure(started, arguments.only))
    print(table(ours, loops))
    if arguments.only:  # one figure is not a report
        return 0
    report(ours, loops, REPORT)
    lines = missed(medians(ours))
    print("\n".join(["", "missed:", *lines] if lines else ["", f"every one of the {len(FIGURES)} figures is kept"]))
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
