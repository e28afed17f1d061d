"""The faults: each process is killed in turn, and then a whole cell."""

import asyncio
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from tests.drills.cells.load import CELLS
from tests.drills.cells.platform import PROVEN_SECONDS, Cells
from tests.drills.drill import Drill, now
from tests.drills.load import Purchase
from tests.drills.platform import LONG
from tests.drills.service_faults import ended
from tests.faults.cluster import REPLICAS
from tests.infrastructure.waiting import eventually

PARTICIPANTS = ("coupon", "balance")  # that a cell has to itself
# While cell 1 is dead, compared with before, cell 0 sells at least so many orders a second, and an order takes at most
# so long in the median. Both improve in fact, because the machine has less to do; the rest is for its noise.
THROUGHPUT_MIN, LATENCY_MAX = 0.8, 1.25
ROUTER = "haproxy"
# What a cell's own customers may ask for, each of another service.
PATHS = ("/v1/orders", "/v1/coupons", "/v1/accounts/me")
UNAVAILABLE = (503, "/problems/unavailable")

Fault = Callable[[Cells], Awaitable[float]]


async def router_killed(cells: Cells) -> float:
    """Kill HAProxy, and start it again."""
    began = now()
    cells.router.kill()
    cells.router.start()
    return began


async def each_killed(cells: Cells) -> float:
    """Kill one process after the other; the next one as soon as the one before is ready again."""
    # It is ready when the Kafka group has forgotten the process that was killed; no customer waits for it.
    await ended("consumer", signal.SIGKILL)(cells)
    for name in TARGETS:
        if name != "consumer":
            await ended(name, signal.SIGKILL)(cells)
            await cells.process(name).ready()
    return await router_killed(cells)


async def cell_killed(cells: Cells) -> float:
    """Kill everything of cell 1, compare what customers of cell 0 get with what they got before, and start it again."""
    (alive, dead), seconds = CELLS, cells.pace.fault_seconds
    before = await _sold(cells, alive, seconds)
    await cells.kill_cell(1)
    meanwhile = await _sold(cells, alive, seconds)
    (user_id, *_) = [one.user_id for one in cells.load.customers if one.cell == dead]
    answers = {await cells.asked(user_id, path) for path in PATHS}
    if answers != {UNAVAILABLE}:
        cells.wrong.append(f"customers of the dead cell got {answers}")
    cells.wrong += compared(before, meanwhile, seconds, cells.figures, in_short=cells.pace is not LONG)
    await cells.start_cell(1)
    if failed := [one.why for one in cells.load.failed if one.cell == alive]:
        cells.wrong.append(f"{len(failed)} requests of the cell that lives failed: {set(failed)}")
    return now()


def compared(
    before: Sequence[Purchase], after: Sequence[Purchase], seconds: float, figures: list[str], *, in_short: bool = False
) -> list[str]:
    """Return what is wrong with a cell's sales after another one has died; add what was measured to `figures`.

    `in_short`: a few seconds say nothing about speed on a machine that has other work, so only that it sells counts.
    """
    if not before or not after:
        return [f"{len(before)} orders before, {len(after)} after the other cell has died"]
    rates = [len(sold) / seconds for sold in (before, after)]
    medians = [statistics.median(_seconds(one) for one in sold) * 1000 for sold in (before, after)]
    throughput, latency = rates[1] / rates[0], medians[1] / medians[0]
    figures.append(f"the living cell: {rates[0]:.0f} → {rates[1]:.0f} orders/s, {medians[0]:.0f} → {medians[1]:.0f} ms")
    if in_short:
        return []
    wrong = [] if throughput >= THROUGHPUT_MIN else [f"only {throughput:.2f} of the orders, must be {THROUGHPUT_MIN}"]
    return wrong if latency <= LATENCY_MAX else [*wrong, f"{latency:.2f} times the latency, may be {LATENCY_MAX}"]


async def proven(cells: Cells) -> float:
    """Break nothing; wait until the consumer has proven that it has all events of both topics up to now."""
    began = time.time()
    await eventually(lambda: cells.is_proven(began), PROVEN_SECONDS, "the consumer's proof over both topics")
    cells.figures.append(f"proven after {time.time() - began:.0f} s")
    return now()


async def _sold(cells: Cells, cell: str, seconds: float) -> list[Purchase]:
    """Return what a cell's customers buy within the next seconds."""
    began = now()
    await asyncio.sleep(seconds)
    until = now()
    return [one for one in cells.load.purchases if one.cell == cell and began < (one.ended or 0) <= until]


def _seconds(purchase: Purchase) -> float:
    assert purchase.ended is not None
    return purchase.ended - purchase.began


def _targets() -> dict[str, str]:
    """Return what is killed, in words, by the name of the process."""
    targets: dict[str, str] = {}
    for number, cell in enumerate(CELLS):
        targets |= {f"{cell}-{name}": f"one of two order replicas of cell {number}" for name in REPLICAS}
        targets |= {f"{cell}-{name}": f"the {name} service of cell {number}" for name in PARTICIPANTS}
        targets[f"{cell}-relay"] = f"the relay of cell {number}"
    return targets | {"product-0": "product shard 0", "product-1": "product shard 1", "consumer": "the consumer"}


def _kill(name: str, what: str) -> Drill[Cells]:
    # What was in flight at a killed order process has no answer, and the back office calls the coupon service.
    failed_max = None if "order" in name or "coupon" in name else 0
    return Drill(
        f"kill-{name}", f"SIGKILL of {what}, started again", ended(name, signal.SIGKILL), failed_max=failed_max
    )


TARGETS = _targets()
EACH = Drill("kill-each", "SIGKILL of each process in turn, the next one once the last one is ready", each_killed)
DEAD = Drill("cell-dead", "SIGKILL of everything of cell 1, its Postgres too; started again later", cell_killed)
DRILLS = [
    *(_kill(name, what) for name, what in TARGETS.items()),
    Drill(f"kill-{ROUTER}", "SIGKILL of HAProxy, started again", router_killed),
    EACH,
    DEAD,
    Drill("consumer-proof", "nothing; the consumer proves that it has all events of both topics", proven, failed_max=0),
]
SHORT_DRILLS = [EACH, DEAD]
