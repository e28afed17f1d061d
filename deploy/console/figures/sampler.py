"""Reads the metrics of all replicas every two seconds, and keeps the figures of the last 15 minutes."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from deploy.console.figures import live
from deploy.console.figures.exposition import Reader
from deploy.console.figures.readings import Look, Reading, Readings
from deploy.console.figures.replicas import Replica, Replicas
from shared.process.tasks import LoopSupervisor

INTERVAL_SECONDS = 2.0
KEPT_SECONDS = 900.0
# A replica that is slower than this is away this time: the next round begins then.
ANSWER_SECONDS = 1.5

Fetch = Callable[[Replica], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Point:
    """The figures at one time: `at` in seconds since the epoch. `away`: the replicas that did not answer."""

    number: int
    at: float
    figures: Mapping[str, float | None]
    away: Sequence[Replica]


class Sampler:
    """The figures, and the last readings of each replica. `fetch` returns a replica's metrics, or raises."""

    def __init__(self, replicas: Replicas, fetch: Fetch) -> None:
        self.readings: dict[Replica, Reading] = {}  # of those that answered in the last round
        self.points: deque[Point] = deque(maxlen=int(KEPT_SECONDS / INTERVAL_SECONDS))
        self.run_id = secrets.token_hex(6)  # numbers of points are of this process only
        self.closed = False
        self._replicas = replicas
        self._fetch = fetch
        self._reader = Reader(live.METRICS)
        self._looks: dict[Replica, Look] = {}
        self._changed = asyncio.Event()

    @property
    def replicas(self) -> Sequence[Replica]:
        """Return the replicas that are known now."""
        return self._replicas.found

    async def run(self) -> None:
        """Read for ever, at a steady pace."""
        supervisor = LoopSupervisor("figures", "figures.failed")
        due = time.monotonic()
        while True:
            with supervisor:
                await self.round()
            due = max(due + INTERVAL_SECONDS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def round(self) -> None:
        """Read all replicas once, and add a point."""
        replicas = self.replicas
        looks = await asyncio.gather(*map(self._look, replicas))
        self.readings = {}
        kept = {}  # of a replica that is gone for ever, nothing
        for replica, look in zip(replicas, looks, strict=True):
            before = self._looks.get(replica)
            if look is not None:
                self.readings[replica] = Reading(before, look)
            if known := look or before:
                kept[replica] = known
        self._looks = kept
        by_service = {
            service: Readings([reading for replica, reading in self.readings.items() if replica.service == service])
            for service in live.BY_SERVICE
        }
        away = [replica for replica in replicas if replica not in self.readings]
        number = self.points[-1].number + 1 if self.points else 1
        self.points.append(Point(number, time.time(), live.figures(by_service), away))
        self._wake()

    def since(self, number: int) -> list[Point]:
        """Return the points after the one with this number, oldest first."""
        return [point for point in self.points if point.number > number]

    async def wait(self, number: int) -> None:
        """Return once there is a point after the one with this number, or at the end."""
        while not self.closed and (not self.points or self.points[-1].number <= number):
            await self._changed.wait()

    def close(self) -> None:
        """Wake all who wait, for the last time."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _look(self, replica: Replica) -> Look | None:
        """Return what a replica reports, None if it does not answer in time."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                text = await self._fetch(replica)
        except Exception:  # noqa: BLE001 - whatever it is, this replica is away, and is shown as such
            return None
        return Look(time.monotonic(), self._reader.read(text))
