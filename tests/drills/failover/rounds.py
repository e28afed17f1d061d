"""One fault while customers buy, and its result; several rounds of a fault as a row of the table."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.drills.drill import unless_ended
from tests.drills.failover.customers import ALLOWED, IN_PROGRESS, Customers, closed_to, counted, seconds_without
from tests.drills.failover.faults import Fault
from tests.drills.platform import LONG, Platform, platform
from tests.faults.cluster import REPLICAS
from tests.infrastructure.own_ha import OwnHa
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually

SUCCESSES = ("200", "201", "202", IN_PROGRESS)
SOLD_SECONDS = 90
AROUND_SECONDS = 3.0  # of load before a fault, and after the repair: more than a failover's first reconnections
HEADINGS = (
    "drill",
    "what happens",
    "seconds without a 201: median",
    "each round",
    "last 503 after, median",
    "whole again after, median",
    "201 / 202 / 503",
    "acknowledged",
    "lost orders",
    "audit",
    "result",
)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of a fault showed.

    `failing_seconds`: from the fault to the last answer that was not a success, which `last_failure` tells.
    `whole_seconds`: from the repair until all members follow the primary, and one is in sync.
    """

    without_seconds: float
    failing_seconds: float
    whole_seconds: float
    last_failure: str
    told: Mapping[str, int]
    acknowledged: int
    lost: int
    audit: str
    wrong: tuple[str, ...]


@dataclass(slots=True)
class Stage:
    """The platform on a Postgres that fails over."""

    platform: Platform
    ha: OwnHa


@asynccontextmanager
async def stage(reaper: Reaper, folder: Path, standbys: int = 1) -> AsyncIterator[Stage]:
    """Run the platform behind HAProxy, with one standby, or strict with two."""
    ha = OwnHa(reaper, folder / "ha", standbys)
    try:
        async with platform(reaper, folder, LONG, postgres=ha) as running:
            yield Stage(running, ha)
    finally:
        await asyncio.to_thread(ha.wake_all)


async def run(fault: Fault, on: Stage, *, until_whole: bool = True) -> Round:
    """Run one round. `until_whole`: wait until the cluster can take the next fault."""
    customers = Customers(on.platform.load, on.platform.cluster.client)
    buying = asyncio.create_task(customers.buy())
    try:
        await unless_ended(buying, asyncio.sleep(AROUND_SECONDS))
        began = time.monotonic()
        left = await unless_ended(buying, fault.strike(on.ha))
        struck = time.monotonic()

        async def all_sell() -> bool:
            return all(customers.sold.get(replica, 0) > struck for replica in REPLICAS)

        await unless_ended(buying, eventually(all_sell, SOLD_SECONDS, "an order at each replica"))
        await unless_ended(buying, left.repair())
        repaired = time.monotonic()
        if until_whole:
            await unless_ended(buying, on.ha.healed())
        whole_seconds = time.monotonic() - repaired
        await unless_ended(buying, asyncio.sleep(AROUND_SECONDS))
        customers.end()
        await buying
    finally:
        customers.end()
        buying.cancel()
    verdict = await on.platform.judge(customers.purchases)
    told = counted(customers.told)
    wrong = list(verdict.wrong)
    if other := {status: count for status, count in told.items() if status not in ALLOWED}:
        wrong.append(f"told {other}")
    if left.closed is not None:
        wrong += closed_to(customers.told, *left.closed)
    failed = [one for one in customers.told if one.status not in SUCCESSES and one.at > began]
    failing_seconds = failed[-1].at - began if failed else 0.0
    acknowledged = sum(one.is_acknowledged for one in customers.purchases)
    without_seconds = seconds_without(customers.told, began)
    lost = len(verdict.lost)
    return Round(
        without_seconds,
        failing_seconds,
        whole_seconds,
        failed[-1].why if failed else "",
        told,
        acknowledged,
        lost,
        verdict.audit,
        tuple(wrong),
    )


def verdict_of(fault: Fault, rounds: Sequence[Round]) -> list[str]:
    """Return what is wrong with all rounds of a fault."""
    wrong = [line for one in rounds for line in one.wrong]
    for what, seconds in (
        ("without a 201", [one.without_seconds for one in rounds]),
        ("until the last failure", [one.failing_seconds for one in rounds]),
    ):
        if max(seconds) > fault.each_max_seconds:
            wrong.append(f"{max(seconds):.1f} s {what}, may be {fault.each_max_seconds:g} s")
        # One round has no median.
        if len(rounds) > 1 and median(seconds) > fault.median_max_seconds:
            wrong.append(f"median {median(seconds):.1f} s {what}, may be {fault.median_max_seconds:g} s")
    return wrong


def row(fault: Fault, rounds: Sequence[Round]) -> str:
    """Return the line of a fault in the table."""
    told: Counter[str] = Counter()
    for one in rounds:
        told.update(one.told)
    wrong = verdict_of(fault, rounds)
    cells = (
        f"`{fault.name}`",
        fault.what,
        f"{median(one.without_seconds for one in rounds):.1f}",
        ", ".join(f"{one.without_seconds:.1f}" for one in rounds),
        f"{median(one.failing_seconds for one in rounds):.1f}",
        f"{median(one.whole_seconds for one in rounds):.1f}",
        " / ".join(f"{told[status]:,}" for status in ("201", "202", "503")),
        f"{sum(one.acknowledged for one in rounds):,}",
        str(sum(one.lost for one in rounds)),
        " ".join(sorted({one.audit for one in rounds})),
        f"FAILED: {'; '.join(wrong)}" if wrong else "passed",
    )
    return _line(cells)


def rows_of(page: str) -> dict[str, str]:
    """Return the lines of a page's table, by the name of their fault."""
    return {match[1]: match[0] for match in re.finditer(r"^\| `([\w-]+)` \|.*$", page, re.M)}


def table(rows: Iterable[str]) -> str:
    """Return the lines as a table in Markdown."""
    marks = ("---", "---", *["--:"] * (len(HEADINGS) - 4), "---", "---")
    return "\n".join((_line(HEADINGS), _line(marks), *rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
