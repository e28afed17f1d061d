"""One drill: load, a fault, its end, and a verdict."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tests.drills.load import Load, Purchase
from tests.drills.platform import Pace, Platform, Skipped
from tests.drills.table import Row
from tests.drills.verdict import Verdict
from tests.infrastructure import missing


class Drilled(Protocol):
    """What a drill strikes: a platform of one cell, or of several."""

    @property
    def load(self) -> Load:
        """Return its customers."""

    @property
    def pace(self) -> Pace:
        """Return how long a drill takes."""

    def check_disks(self) -> None:
        """Fail if a server has little space before a drill begins."""

    async def recovered(self, since: float) -> float:
        """Wait until everything works again; return the seconds from `since` on."""

    async def judge(self, purchases: Sequence[Purchase]) -> Verdict:
        """Compare all books with what customers were told, once nothing is in progress."""


T = TypeVar("T")
P = TypeVar("P", bound=Drilled)
# Strikes and heals; returns when the fault had ended, by time.monotonic().
Fault = Callable[[Platform], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Drill(Generic[P]):
    """A fault with a name and what happens, in words.

    `recover_max_seconds`: the drill fails if customers can't buy again within this time of the fault's end.
    `failed_max`: how many requests may fail; None if the fault makes any number fail.
    `in_short`: whether the drill stands for its kind in the short form.
    """

    name: str
    what: str
    fault: Callable[[P], Awaitable[float]]
    recover_max_seconds: float = 30.0
    failed_max: int | None = None
    in_short: bool = False


async def run(drill: Drill[P], platform: P) -> Row:
    """Run a drill on a platform where nothing else happens."""
    load, pace = platform.load, platform.pace
    platform.check_disks()
    load.reset()
    buying = asyncio.create_task(load.buy(pace.customers))
    try:
        await unless_ended(buying, asyncio.sleep(pace.around_seconds))
        try:
            ended_at = await unless_ended(buying, drill.fault(platform))
        except Skipped as skipped:
            return not_run(drill, str(skipped))
        recovered_seconds = await unless_ended(buying, platform.recovered(ended_at))
        await unless_ended(buying, asyncio.sleep(pace.around_seconds))
        load.end()
        await buying
    finally:
        load.end()
        buying.cancel()
    late = [one.at - ended_at for one in load.failed if one.at > ended_at]
    recovered_seconds = max([recovered_seconds, *late])
    verdict = await platform.judge(load.purchases)
    wrong = list(verdict.wrong)
    if recovered_seconds > drill.recover_max_seconds:
        wrong.append(f"recovered after {recovered_seconds:.1f} s, may take {drill.recover_max_seconds:g}")
    if drill.failed_max is not None and len(load.failed) > drill.failed_max:
        wrong.append(f"{len(load.failed)} failed, may be {drill.failed_max}: {load.failed[0].why}")
    return Row(
        drill.name,
        drill.what,
        recovered_seconds,
        load.requests,
        len(load.failed),
        len(verdict.lost),
        verdict.audit,
        tuple(wrong),
        figures=tuple(verdict.figures),
    )


def not_run(drill: Drill[P], why: str) -> Row:
    """Return the row of a drill that this machine can't run: skipped, or failed with CI=true."""
    if missing.is_failure():
        return Row(drill.name, drill.what, wrong=(why,))
    return Row(drill.name, drill.what, skipped=why)


async def unless_ended(buying: "asyncio.Task[None]", work: Awaitable[T]) -> T:
    """Return what `work` returns; fail at once if the customers fail meanwhile."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, buying}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await buying
        raise AssertionError("the customers have stopped")
    return task.result()


def now() -> float:
    """Return the time by which a fault's end is reported."""
    return time.monotonic()
