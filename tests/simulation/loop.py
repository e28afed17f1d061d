"""An event loop with a virtual clock: one thread, no I/O, no waiting. The same calls in the same order, every time.

Time jumps to the next timer when nothing is ready. Whatever runs belongs to an `Actor` (a simulated process, or
the world around them) through its context, which asyncio hands from a task to the tasks and timers it makes. So a
process can be frozen or killed between any two of its callbacks, as SIGSTOP and SIGKILL do: nothing is cancelled, no
`finally` runs.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Callback:
    """A call that waits for its turn, or for its time."""

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
        """Forget the call."""
        self.cancelled = True

    def when(self) -> float:
        """Return the virtual time of a timer."""
        return self.time


class Actor:
    """What runs and can be stopped: a process of the simulation."""

    def __init__(self, name: str, *, clock_skew_seconds: float = 0.0) -> None:
        self.name = name
        self.clock_skew_seconds = clock_skew_seconds
        self.alive = True
        self.frozen: list[Callback] | None = None
        self.stopping = asyncio.Event()  # SIGTERM


# What runs outside any process: clients, the network, the databases.
WORLD = Actor("world")
WORLD_CONTEXT = Context()
current: ContextVar[Actor] = ContextVar("actor", default=WORLD)


class VirtualLoop:
    """As much of an event loop as asyncio's tasks, futures and timeouts ask for; not a subclass, for that is little."""

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
        """End the run with this error, whatever the code in between would catch."""
        self._failure = self._failure or error

    def run_until_complete(self, future: Any, limit_seconds: float = float("inf")) -> Any:
        """Run until the coroutine returns. Raises what it raised, what `fail` was told, or TimeoutError when virtual
        time passes the limit."""
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
                raise RuntimeError("everybody waits for somebody else")
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                break
        if timer.time > self._limit:
            raise TimeoutError("the history never ends")
        self._now = max(self._now, timer.time)
        self.steps += 1
        self._ready.append(timer)

    def freeze(self, actor: Actor) -> None:
        """Stop an actor where it is, as SIGSTOP does."""
        actor.frozen = []

    def wake(self, actor: Actor) -> None:
        """Let a frozen actor go on with what came up meanwhile, in its order."""
        self._ready.extend(actor.frozen or ())
        actor.frozen = None

    def start(self, actor: Actor, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """Begin to run a coroutine as part of an actor, and return its task. That it raises ends the run."""
        context = Context()
        context.run(current.set, actor)
        task = self.create_task(coroutine, context=context)
        task.add_done_callback(self._notice)
        return task

    def spawn(self, actor: Actor, coroutine: Coroutine[Any, Any, object]) -> None:
        """Begin to run a coroutine as part of an actor."""
        task = self.start(actor, coroutine)
        assert not task.done()

    def _notice(self, task: "asyncio.Task[Any]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)

    def close(self) -> None:
        """Throw away what is still pending, once nothing can come of it any more."""
        for coroutine in self._coroutines:
            coroutine.close()

    # What asyncio asks of a loop ----------------------------------------------------------------------------------

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
        """Begin to run a coroutine."""
        self._coroutines.append(coro)
        return asyncio.Task(coro, loop=self._as_loop, name=name, context=context)

    def get_debug(self) -> bool:
        """Debugging is off."""
        return False

    def is_running(self) -> bool:
        """Say yes: nobody asks a loop that isn't."""
        return True

    def is_closed(self) -> bool:
        """There is nothing to close."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Pass over what a killed process leaves behind: tasks that are pending for ever, answers nobody awaits."""
