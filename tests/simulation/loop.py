"""Provides an event loop with a virtual clock. It is deterministic: one thread, no I/O, no waiting.

When no callback is ready, the time becomes that of the next timer. Every callback belongs to an `Actor`: a simulated
process, or the world around them. The actor is in the context, which asyncio passes from a task to the tasks and timers
it makes. So an actor can be frozen or killed between any two of its callbacks, as by SIGSTOP and SIGKILL: nothing is
cancelled, and no `finally` runs.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Callback:
    """A call that is queued, or scheduled for a time."""

    __slots__ = ("args", "cancelled", "context", "function", "number", "time")

    def __init__(self, time: float, number: int, function: Callable[..., object], args: Any, context: Context) -> None:
        self.time = time
        self.number = number
        self.function = function
        self.args = args
        self.context = context
        self.cancelled = False

    def __lt__(self, other: "Callback") -> bool:
        return (self.time, self.number) < (other.time, other.number)

    def cancel(self) -> None:
        """Cancel the call."""
        self.cancelled = True

    def when(self) -> float:
        """Return the virtual time of a timer."""
        return self.time


class Actor:
    """A simulated process, which can be frozen, killed or asked to stop."""

    def __init__(self, name: str, *, clock_skew_seconds: float = 0.0) -> None:
        self.name = name
        self.clock_skew_seconds = clock_skew_seconds
        self.alive = True
        self.frozen: list[Callback] | None = None
        self.stopping = asyncio.Event()  # SIGTERM


# The actor of everything outside the processes: clients, the network, the databases.
WORLD = Actor("world")
WORLD_CONTEXT = Context()
current: ContextVar[Actor] = ContextVar("actor", default=WORLD)


class VirtualLoop:
    """The part of an event loop that asyncio's tasks, futures and timeouts call."""

    def __init__(self, start_seconds: float = 0.0) -> None:
        self._now = start_seconds
        self._limit = float("inf")
        self._ready: deque[Callback] = deque()
        self._timers: list[Callback] = []
        self._count = 0
        self._failure: BaseException | None = None
        self._coroutines: list[Any] = []
        self._as_loop = cast("asyncio.AbstractEventLoop", self)
        self.steps = 0

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def fail(self, error: BaseException) -> None:
        """End the run with this error. No code in the simulation can catch it."""
        self._failure = self._failure or error

    def run_until_complete(self, future: Any, limit_seconds: float = float("inf")) -> Any:
        """Run until the coroutine returns.

        Raises its error, the error given to `fail`, or TimeoutError when the virtual time passes the limit.
        """
        self._limit = limit_seconds
        asyncio._set_running_loop(self._as_loop)
        try:
            task = self.create_task(future)
            while not task.done():
                self._run_next()
            return task.result()
        finally:
            asyncio._set_running_loop(None)

    def _run_next(self) -> None:
        if not self._ready:
            self._pass_time()
        callback = self._ready.popleft()
        if callback.cancelled:
            return
        actor = callback.context.get(current, WORLD)
        if not actor.alive:
            return
        if actor.frozen is not None:
            actor.frozen.append(callback)
            return
        callback.context.run(callback.function, *callback.args)
        if self._failure is not None:
            raise self._failure

    def _pass_time(self) -> None:
        while True:
            if not self._timers:
                raise RuntimeError("deadlock: no callback and no timer is left")
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                break
        if timer.time > self._limit:
            raise TimeoutError("the history exceeds its time limit")
        self._now = max(self._now, timer.time)
        self.steps += 1
        self._ready.append(timer)

    def freeze(self, actor: Actor) -> None:
        """Pause an actor, as SIGSTOP does."""
        actor.frozen = []

    def wake(self, actor: Actor) -> None:
        """Continue a frozen actor with the callbacks that became ready meanwhile, in their order."""
        self._ready.extend(actor.frozen or ())
        actor.frozen = None

    def start(self, actor: Actor, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """Start a coroutine as part of an actor, and return its task. If it raises, the run ends with its error."""
        context = Context()
        context.run(current.set, actor)
        task = self.create_task(coroutine, context=context)
        task.add_done_callback(self._notice)
        return task

    def spawn(self, actor: Actor, coroutine: Coroutine[Any, Any, object]) -> None:
        """Start a coroutine as part of an actor. If it raises, the run ends with its error."""
        task = self.start(actor, coroutine)
        assert not task.done()

    def _notice(self, task: "asyncio.Task[Any]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)

    def close(self) -> None:
        """Close all coroutines that are still pending after the run."""
        for coroutine in self._coroutines:
            coroutine.close()

    # The interface that asyncio calls -------------------------------------------------------------------------------

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Callback:
        """Queue a call."""
        handle = Callback(self._now, 0, callback, args, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Callback:
        """Queue a call for a virtual time."""
        self._count += 1
        handle = Callback(when, self._count, callback, args, copy_context() if context is None else context)
        heapq.heappush(self._timers, handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Callback:
        """Queue a call for some seconds from now."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_future(self) -> "asyncio.Future[Any]":
        """Return a future of this loop."""
        return asyncio.Future(loop=self._as_loop)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> "asyncio.Task[Any]":
        """Start a coroutine in a task."""
        self._coroutines.append(coro)
        return asyncio.Task(coro, loop=self._as_loop, name=name, context=context)

    def get_debug(self) -> bool:
        """Return False: debugging is off."""
        return False

    def is_running(self) -> bool:
        """Return True: asyncio asks only while the loop runs."""
        return True

    def is_closed(self) -> bool:
        """Return False: this loop has nothing to close."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Ignore what killed processes leave: tasks that stay pending, and errors that no task awaits."""
