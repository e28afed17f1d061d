"""Cancels requests that exceed their deadline, during any wait."""

import asyncio

from prometheus_client import Counter

# For this long after its deadline a handler may still answer: a started operation must not be answered 503.
GRACE_SECONDS = 0.4
# One timer checks all requests: a timer for each would cost 3 us, a hundredth of a small request. It runs only while
# there are requests, so that a listener without requests costs nothing.
LOOK_SECONDS = 0.1
CUT_OFF = Counter("http_requests_cut_off_total", "Requests cut off because they took longer than their deadline")


class Deadlines:
    """The running requests, each with its task and the time at which it is cancelled."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[object], float] = {}
        self._cut_off: dict[asyncio.Task[object], int] = {}
        self._waits = False  # for the next check

    def begin(self, seconds: float) -> "asyncio.Task[object]":
        """Register the current task as a request's, with a deadline in `seconds`, and return the task."""
        task = asyncio.current_task()
        assert task is not None
        self._ends[task] = asyncio.get_running_loop().time() + seconds + GRACE_SECONDS
        if not self._waits:
            self._wait()
        return task

    def end(self, task: "asyncio.Task[object]") -> bool:
        """Unregister a task; return whether only the deadline cancelled it. Then the task may continue."""
        del self._ends[task]
        count = self._cut_off.pop(task, 0)
        for _ in range(count):
            task.uncancel()
        return count > 0 and not task.cancelling()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._waits = True
        loop.call_later(LOOK_SECONDS, self._look, loop.time())

    def _look(self, looked_at: float) -> None:
        """Cancel late requests. `looked_at`: when the previous check was, or the first request began."""
        self._waits = False
        if self._ends:
            self._wait()
        # Only requests that were late at the previous check too. After a pause of the process all are late together,
        # and handlers that can answer need one iteration of the event loop first.
        for task in [task for task, end in self._ends.items() if end < looked_at]:
            self._cut(task)

    def _cut(self, task: "asyncio.Task[object]") -> None:
        """Cancel a request, and again at each further check: its cleanup may wait too, for example for a rollback on
        a database that hangs."""
        if task not in self._cut_off:
            CUT_OFF.inc()
        self._cut_off[task] = self._cut_off.get(task, 0) + 1
        task.cancel()
