"""Keeps processes running: starts them, waits until they are ready, restarts those that die, stops them."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.processes import POLL_SECONDS, Child, last_lines, started_at
from shared.process.exits import Exit

TRIES = 3  # at the first start; after three failures in a row, a fourth try would not help
NOT_TRIED_AGAIN = (Exit.MISCONFIGURED, Exit.CANNOT_LISTEN)  # only a changed setting helps
SHOWN_LINES = 15
BACKOFF_FIRST_SECONDS = 0.25
BACKOFF_MAX_SECONDS = 10.0
STEADY_SECONDS = 60.0  # after running this long, a process restarts with the first backoff again

Start = Callable[[], Awaitable[Child]]
Ready = Callable[[], Awaitable[bool]]
Say = Callable[[str], None]


class StartError(Exception):
    """A process did not become ready; `lines` has the reason, and `status` the exit status."""

    def __init__(self, lines: list[str], status: int = Exit.FAILED) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.status = status


async def persist(step: Callable[[], Awaitable[None]], is_wanted: Callable[[], bool], say: Say) -> None:
    """Repeat a step that raises StartError until it is done, or is not wanted any more."""
    backoff = BACKOFF_FIRST_SECONDS
    while is_wanted():
        try:
            await step()
            break
        except StartError as error:
            for line in error.lines:
                say(line)
        await asyncio.sleep(backoff)
        backoff = min(backoff * 2, BACKOFF_MAX_SECONDS)


@dataclass(slots=True)
class Part:
    """One process to keep running: its command, its readiness check, and its stop signal."""

    name: str
    start: Start
    ready: Ready
    say: Say
    changed: Callable[[], None]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    restarted: Callable[[], Awaitable[None]] | None = None
    child: Child | None = None
    since: float = 0.0
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child is not None and self.child.returncode is None else None

    @property
    def started(self) -> float:
        """Return when the operating system started the process, in seconds since the epoch."""
        return (started_at(self.pid) if self.pid is not None else None) or time.time()

    async def bring_up(self, seconds: float) -> None:
        """Start the process and wait until it is ready. Raises StartError after a few tries or a timeout."""
        for attempt in range(1, TRIES + 1):
            child = await self._launch()
            status = await self._ended_before_ready(child, seconds)
            if status is None:
                return
            if status in NOT_TRIED_AGAIN:
                raise StartError([f"{self.name} cannot start:", *last_lines(self.log, SHOWN_LINES)], status)
            if attempt < TRIES:
                self.say(f"{self.name} ended with status {status} before it was ready; trying again")
        raise StartError(self._story(f"{self.name} ended {TRIES} times before it was ready"))

    async def keep(self) -> None:
        """Restart the process whenever it ends, until cancelled."""
        backoff = BACKOFF_FIRST_SECONDS
        while True:
            child = self.child
            assert child is not None
            status = await child.wait()
            if time.monotonic() - self.since > STEADY_SECONDS:
                backoff = BACKOFF_FIRST_SECONDS
            async with self._changing:
                if self.child is not child:  # it was restarted on purpose
                    continue
                self.say(f"{self.name} {_ended(status)}; starting it again in {backoff:g} s (log: {self.log})")
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, BACKOFF_MAX_SECONDS)
                await self._start_again()

    async def _start_again(self) -> None:
        try:
            child = await self._launch()
        except Exception as error:  # noqa: BLE001 # any error is printed, and the start is retried after a longer pause
            self.say(f"{self.name} could not be started: {error}")
            return
        if await self._ended_before_ready(child, BACKOFF_MAX_SECONDS, fatal=False) is None:
            if self.restarted is not None:
                await self.restarted()
            self.say(f"{self.name} runs again (pid {child.pid})")

    @contextlib.asynccontextmanager
    async def stopped(self, stop_seconds: float, start_seconds: float) -> AsyncIterator[None]:
        """Keep the process stopped while the body runs. If the body fails, `keep` restarts it as if it had died."""
        async with self._changing:
            await self.stop(stop_seconds)
            yield
            child = await self._launch()
            await self._ended_before_ready(child, start_seconds, fatal=False)

    async def stop(self, seconds: float) -> None:
        """Ask the process to end; kill it after `seconds`."""
        if self.child is not None and not await self.child.stop(self.stop_signal, max(seconds, 0.0)):
            self.say(f"{self.name} did not stop in time and was killed")

    async def _launch(self) -> Child:
        self.child = await self.start()
        self.since = time.monotonic()
        self.changed()
        return self.child

    async def _ended_before_ready(self, child: Child, seconds: float, *, fatal: bool = True) -> int | None:
        """Wait until the process is ready (None) or ends (its status). On timeout, raise StartError if `fatal`."""
        deadline = time.monotonic() + seconds
        while child.returncode is None:
            if await self.ready():
                return None
            if time.monotonic() > deadline:
                if not fatal:
                    return None
                raise StartError(self._story(f"{self.name} was not ready after {seconds:g} s"))
            await asyncio.sleep(POLL_SECONDS)
        return child.returncode

    def _story(self, headline: str) -> list[str]:
        return [f"{headline}; the end of {self.log}:", *(f"  {line}" for line in last_lines(self.log, SHOWN_LINES))]


def _ended(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    meaning = "".join(f" ({known.meaning})" for known in Exit if known == status)
    return f"ended with status {status}{meaning}"
