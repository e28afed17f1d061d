"""Background work: loops that outlive every failure of a round, and tasks that end the process if they die."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import structlog
from prometheus_client import Counter

from shared.postgres import explain
from shared.refusals import Unavailable

log = structlog.get_logger()

FAILED_ROUNDS = Counter("background_failed_rounds_total", "Rounds of background loops that failed", ["loop", "cause"])
# How long at most a loop rests because of failures: how late it may be once what it needs is back.
PAUSE_MAX_SECONDS = 5.0


class LoopSupervisor:
    """Keeps one background loop going, whatever its rounds raise:

        supervisor = LoopSupervisor("sweep", "sweep.failed")
        while True:
            with supervisor:
                await sweep_once()
            await asyncio.sleep(supervisor.pause(1.0))

    A failure is logged when it begins, when another kind of failure comes, and when it is over; each round is counted.
    """

    def __init__(
        self,
        loop: str,
        event: str,
        *,
        expected: tuple[type[Exception], ...] = (Unavailable,),
        pause_max_seconds: float = PAUSE_MAX_SECONDS,
    ) -> None:
        """`event`: the log line's. `expected`: transient failures, logged without a trace; any other is a bug."""
        self._loop = loop
        self._event = event
        self._expected = expected
        self._pause_max_seconds = pause_max_seconds
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
        """Return how long to wait for the next round: as usual, or up to `pause_max_seconds` while rounds fail."""
        if self.failures < 2:
            return usual_seconds
        longer = usual_seconds * 2.0 ** min(self.failures - 1, 30)
        return max(usual_seconds, min(longer, self._pause_max_seconds))

    def succeeded(self) -> None:
        """Note that a round went well."""
        if self.failures:
            log.info("loop recovered", loop=self._loop, failed_rounds=self.failures)
            self.failures = 0
            self._known.clear()

    def failed(self, error: BaseException, **fields: Any) -> None:
        """Note a round's failure; `fields` are added to its log line."""
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
    """Return whether the current task may go on after an error: any but the end of the process or of this very task.

    A CancelledError without a request to cancel this task comes from something cancelled that it waited for.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return isinstance(error, Exception)


def _kind(error: BaseException) -> tuple[object, ...]:
    """Return what tells one failure from another; not the text, which may hold numbers."""
    cause = error.__cause__
    return type(error), type(cause), getattr(cause or error, "sqlstate", None)


class _Essentials:
    """The tasks of this process that have died although the service is of no use without them."""

    def __init__(self) -> None:
        self.dead: list[str] = []
        self.on_death: Callable[[], None] = lambda: None

    def look(self, task: "asyncio.Task[Any]") -> None:
        if task.cancelled():
            error: BaseException | None = None if task.cancelling() else asyncio.CancelledError()
        else:
            error = task.exception()
        if error is None:
            return
        self.dead.append(task.get_name())
        self.on_death()  # before the log, so that nothing that may become of it keeps the process
        log.critical("background task died", task=task.get_name(), exc_info=error)


_essentials = _Essentials()


def dead_tasks() -> list[str]:
    """Return the names of essential tasks that have died."""
    return list(_essentials.dead)


def on_death(act: Callable[[], None]) -> None:
    """Have `act` called when an essential task dies."""
    _essentials.on_death = act


def essential(name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Start a task that the service is of no use without: if it raises, `/livez` says so and the process ends.

    It may return, and be cancelled.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_essentials.look)
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
