"""Cuts off requests that take longer than they may, whatever they wait for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Counter

from shared.background import background

# How long after its deadline a handler may still answer by itself: what it has begun must not be answered 503.
GRACE_SECONDS = 0.4
# One timer looks at all requests: one for each costs 3 us, a hundredth of a small request.
LOOK_SECONDS = 0.1
CUT_OFF = Counter("http_requests_cut_off_total", "Requests cut off because they took longer than their deadline")


class Deadlines:
    """The requests that are handled now, each with its task and the time at which it is cut off."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[object], float] = {}
        self._cut_off: dict[asyncio.Task[object], int] = {}

    def begin(self, seconds: float) -> "asyncio.Task[object]":
        """Take note that the current task handles a request from now on, with a deadline in `seconds`."""
        task = asyncio.current_task()
        assert task is not None
        self._ends[task] = asyncio.get_running_loop().time() + seconds + GRACE_SECONDS
        return task

    def end(self, task: "asyncio.Task[object]") -> bool:
        """Take note that the current task handles its request no longer; return whether only the deadline cancelled
        it. Then the task may go on."""
        del self._ends[task]
        count = self._cut_off.pop(task, 0)
        for _ in range(count):
            task.uncancel()
        return count > 0 and not task.cancelling()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Cut off requests while the body runs."""
        async with background("deadlines", self._watch):
            yield

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            looked_at = loop.time()
            await asyncio.sleep(LOOK_SECONDS)
            # Only what was late at the look before this one. After a pause of the process all are late at once, and
            # those that can answer by themselves need a turn of the event loop for it.
            for task in [task for task, end in self._ends.items() if end < looked_at]:
                self._cut(task)

    def _cut(self, task: "asyncio.Task[object]") -> None:
        """Cancel a request; at each further look again, while it waits for what it cleans up: a rollback, for
        instance, for which a database that hangs takes as long as for anything else."""
        if task not in self._cut_off:
            CUT_OFF.inc()
        self._cut_off[task] = self._cut_off.get(task, 0) + 1
        task.cancel()
