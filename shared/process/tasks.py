"""Background loops that continue after failures, tasks whose death ends the process, and waits with a time limit."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import structlog
from prometheus_client import Counter

from shared.postgres.errors import explain
from shared.refusals import Unavailable

log = structlog.get_logger()

FAILED_ROUNDS = Counter("background_failed_rounds_total", "Rounds of background loops that failed", ["loop", "cause"])
# The longest pause because of failures: a loop notices this late that its database or broker is back.
PAUSE_MAX_SECONDS = 5.0


class LoopSupervisor:
    """Keeps one background loop running, whatever its rounds raise:

        supervisor = LoopSupervisor("sweep", "sweep.failed")
        while True:
            with supervisor:
                await sweep_once()
            await asyncio.sleep(supervisor.pause(1.0))

    The first failed round is logged, then each new kind of failure, then the recovery. Every failed round is counted.
    """

    def __init__(self, loop: str, event: str, *, expected: tuple[type[Exception], ...] = (Unavailable,)) -> None:
        """`event`: the log event's name. `expected`: transient failures, logged without a trace; others are bugs."""
        self._loop = loop
        self._event = event
        self._expected = expected
        self._transient = FAILED_ROUNDS.labels(loop, "transient")
        self._bugs = FAILED_ROUNDS.labels(loop, "bug")
        self._known: set[tuple[object, ...]] = set()
        self.failures = 0  # since the last round that succeeded

    def __enter__(self) -> "LoopSupervisor":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if error is None:
            self.succeeded()
            return False
        if not is_survivable(error):
            return False
        self.failed(error)
        return True

    def pause(self, usual_seconds: float) -> float:
        """Return the seconds until the next round: as usual, or up to PAUSE_MAX_SECONDS while rounds fail."""
        longer = usual_seconds * 2.0 ** min(self.failures - 1, 30)
        return max(usual_seconds, min(longer, PAUSE_MAX_SECONDS))

    def succeeded(self) -> None:
        """Record a successful round."""
        if self.failures:
            log.info("loop.recovered", loop=self._loop, failed_rounds=self.failures)
            self.failures = 0
            self._known.clear()

    def failed(self, error: BaseException, **fields: Any) -> None:
        """Record a failed round; `fields` are added to its log line."""
        self.failures += 1
        transient = isinstance(error, self._expected)
        (self._transient if transient else self._bugs).inc()
        kind = _kind(error)
        if kind in self._known:
            return
        self._known.add(kind)
        if transient:
            log.warning(self._event, loop=self._loop, detail=explain(error), **fields)
        else:
            log.error(self._event, loop=self._loop, detail=repr(error), exc_info=error, **fields)


def is_survivable(error: BaseException) -> bool:
    """Return whether the current task may continue after an error: not if the process ends or the task is cancelled.

    A CancelledError without a request to cancel this task comes from another task that it waited for.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return isinstance(error, Exception)


def _kind(error: BaseException) -> tuple[object, ...]:
    """Return a key for the kind of a failure, without the text, which may contain numbers."""
    cause = error.__cause__
    return type(error), type(cause), getattr(cause or error, "sqlstate", None)


class Essentials:
    """The essential tasks of this process that have died, by name, and what to call when one dies."""

    def __init__(self) -> None:
        self.dead: list[str] = []
        self.on_death: Callable[[], None] = lambda: None

    def look(self, task: "asyncio.Task[Any]") -> None:
        """Record an ended task if it died."""
        if task.cancelled():
            error: BaseException | None = None if task.cancelling() else asyncio.CancelledError()
        else:
            error = task.exception()
        if error is None:
            return
        self.dead.append(task.get_name())
        self.on_death()  # before the log, whose failure must not prevent it
        log.critical("task.died", task=task.get_name(), exc_info=error)


essentials = Essentials()


def essential(name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Start a task that the service needs. If the task raises, `/livez` reports it and the process ends.

    The task may return, and it may be cancelled.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(essentials.look)
    return task


@asynccontextmanager
async def background(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run `work` as an essential task beside the body, and cancel it at the end."""
    task = essential(name, work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait until `event` is set, for at most `seconds`; return whether it is set.

    asyncio.wait_for is not used: before Python 3.12 it swallows a cancellation that comes together with the event, and
    the loop around it never ends.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def run_to_completion(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to completion even if the caller is cancelled, then re-raise the cancellation.

    asyncio.shield alone is not enough: nothing waits for the work then, and the end of the event loop cancels it.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
