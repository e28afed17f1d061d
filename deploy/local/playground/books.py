"""What `make audit` says: at the push of a button, every few seconds while something is broken, and once after it."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deploy.local.configuration import ROOT
from deploy.orderctl.verdict import Commands, verdict
from shared.process.exits import Exit

EVERY_SECONDS = 10.0
LOOK_SECONDS = 60.0  # the audit of a demo takes two
COMMANDS = Commands("make audit ARGS=--json", 'make repair BY=you REASON="why" DRY_RUN=1')


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit has found. `clean` is None if it could not look. `at`: when it began, as `time.monotonic`."""

    clean: bool | None
    text: str
    at: float


class Books:
    """The last audit. `environment` returns the settings of the command."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Callable[[], Mapping[str, str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command, self._environment, self._clock = command, environment, clock
        self.last: Verdict | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_looking(self) -> bool:
        """Return whether an audit is under way."""
        return self._task is not None and not self._task.done()

    def begin(self) -> None:
        """Begin an audit, unless one is under way."""
        if not self.is_looking:
            self._task = asyncio.create_task(self._look())

    def follow(self, *, broken: bool, ended_at: float | None) -> None:
        """Begin an audit if one is due. Call this every second. `ended_at`: when the last fault ended."""
        at = None if self.last is None else self.last.at
        again = broken and (at is None or self._clock() - at > EVERY_SECONDS)
        # By its time: a fault may begin and end between two calls.
        after = not broken and ended_at is not None and (at is None or at < ended_at)
        if again or after:
            self.begin()

    async def close(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        began, pipe = self._clock(), asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._command, cwd=ROOT, env=self._environment(), stdout=pipe, stderr=pipe
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), LOOK_SECONDS)
        except TimeoutError:
            output, errors = b"", b"it took too long"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode in (Exit.DONE, Exit.NOT_CLEAN):
            report = json.loads(output)
            self.last = Verdict(bool(report["clean"]), verdict(report, COMMANDS, colour=False), began)
        else:
            why = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no reason"]
            self.last = Verdict(None, f"The audit can't look now: {why[0]}", began)
