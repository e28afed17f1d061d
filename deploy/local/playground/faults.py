"""Breaks one process of this run at a time, undoes that after a while, and sees the platform come back.

A pause, a stop: until somebody undoes it, 30 seconds at most. A kill: the supervisor starts the process again at once.
"""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from deploy.local.configuration import SERVICES
from deploy.local.supervisor import Part, Say

LONGEST_SECONDS = 30.0  # a spectator has seen enough by then, and nobody has to remember what is broken
STOP_SECONDS = 5.0  # Postgres writes a checkpoint
START_SECONDS = 30.0
POLL_SECONDS = 0.25
SHOWN = 6
BROKER, POSTGRES = "broker", "postgres"


class Kind(StrEnum):
    """What is done to a process."""

    PAUSE = "pause"
    KILL = "kill"
    STOP = "stop"


# Servers only where this run has started them. Services have both; a server that is paused looks like a stopped one.
KINDS: Mapping[str, tuple[Kind, ...]] = {
    **dict.fromkeys(SERVICES, (Kind.PAUSE, Kind.KILL)),
    BROKER: (Kind.STOP,),
    POSTGRES: (Kind.STOP,),
}


class ImpossibleError(Exception):
    """This can't be broken, or not now. `why`: a key of the texts."""

    def __init__(self, name: str, why: Literal["unknown", "already"]) -> None:
        super().__init__(f"{name}: {why}")
        self.name, self.why = name, why


@dataclass(slots=True, eq=False)
class Fault:
    """What was done to a process, with the times of `time.monotonic`: when it began, was undone, and was overcome."""

    part: str
    kind: Kind
    began: float
    undone: float | None = None
    back: float | None = None
    undo: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_held(self) -> bool:
        """Return whether the process is kept from running."""
        return self.undone is None and self.kind is not Kind.KILL


class Faults:
    """The faults of one run. `parts`: its processes by name."""

    def __init__(
        self,
        parts: Mapping[str, Part],
        say: Say,
        *,
        longest_seconds: float = LONGEST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.parts = {name: parts[name] for name in KINDS if name in parts}
        self.recent: deque[Fault] = deque(maxlen=SHOWN)  # newest first
        self._say, self._longest_seconds, self._clock = say, longest_seconds, clock
        self.ended_at: float | None = None  # when the last of them ended
        self._live: dict[str, tuple[Fault, asyncio.Task[None]]] = {}

    def live(self, name: str) -> Fault | None:
        """Return what is done to a process now, or what the platform has not yet overcome."""
        return self._live[name][0] if name in self._live else None

    @property
    def any_live(self) -> bool:
        """Return whether something is broken or comes back."""
        return bool(self._live)

    def begin(self, name: str, kind: Kind) -> Fault:
        """Break a process. Raises ImpossibleError."""
        if name not in self.parts or kind not in KINDS[name]:
            raise ImpossibleError(name, "unknown")
        part = self.parts[name]
        if name in self._live or part.pid is None:
            raise ImpossibleError(name, "already")
        fault = Fault(name, kind, self._clock())
        self.recent.appendleft(fault)
        self._live[name] = (fault, asyncio.create_task(self._run(part, fault)))
        self._say(f"Playground: {kind} {name}")
        return fault

    def undo(self, name: str) -> None:
        """End what keeps a process from running, if anything does."""
        if name in self._live:
            self._live[name][0].undo.set()

    async def close(self) -> None:
        """End everything: a paused process could not stop."""
        tasks = [task for _, task in self._live.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, part: Part, fault: Fault) -> None:
        ways: Mapping[Kind, Callable[[Part, Fault], Awaitable[None]]] = {
            Kind.PAUSE: self._pause,
            Kind.KILL: self._kill,
            Kind.STOP: self._stop,
        }
        try:
            await ways[fault.kind](part, fault)
            assert fault.undone is not None
            await self._all_ready()
            fault.back = self._clock()
            self._say(f"Playground: everything is ready {fault.back - fault.undone:.1f} s after the {fault.kind}")
        except Exception as error:  # noqa: BLE001 # the supervisor restarts the process, as after any other end
            self._say(f"Playground: {fault.kind} {part.name}: {error}")
        finally:
            del self._live[part.name]
            self.ended_at = self._clock()

    async def _pause(self, part: Part, fault: Fault) -> None:
        child = part.child
        assert child is not None
        child.send(signal.SIGSTOP)
        try:
            await self._held(fault)
        finally:
            child.send(signal.SIGCONT)

    async def _kill(self, part: Part, fault: Fault) -> None:
        child = part.child
        assert child is not None
        child.send(signal.SIGKILL)
        await child.wait()
        fault.undone = self._clock()

    async def _stop(self, part: Part, fault: Fault) -> None:
        async with part.stopped(STOP_SECONDS, START_SECONDS):
            await self._held(fault)
        if part.restarted is not None:
            await part.restarted()

    async def _held(self, fault: Fault) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(fault.undo.wait(), self._longest_seconds)
        fault.undone = self._clock()

    async def _all_ready(self) -> None:
        parts = list(self.parts.values())
        while True:
            answers = await asyncio.gather(*(part.ready() for part in parts))
            if all(answers) and all(part.pid is not None for part in parts):
                return
            await asyncio.sleep(POLL_SECONDS)
