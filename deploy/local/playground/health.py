"""What each process of this run does now, and since when."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from deploy.local.playground.faults import Faults, Kind
from deploy.local.supervisor import Part

PROBE_SECONDS = 1.0  # a service answers within milliseconds; a paused one not at all
RUNS = "running"


@dataclass(frozen=True, slots=True)
class State:
    """What a process does. `since`: as `time.monotonic`, None if it was so from the beginning."""

    word: str
    since: float | None


class Health:
    """The state of each process, as of the last look."""

    def __init__(self, faults: Faults, clock: Callable[[], float] = time.monotonic) -> None:
        self._faults, self._clock = faults, clock
        self.states = {name: State(RUNS, None) for name in faults.parts}

    async def look(self) -> None:
        """Ask every process."""
        words = await asyncio.gather(*(self._word(name, part) for name, part in self._faults.parts.items()))
        for name, word in zip(self._faults.parts, words, strict=True):
            if word != self.states[name].word:
                self.states[name] = State(word, self._clock())

    async def _word(self, name: str, part: Part) -> str:
        fault = self._faults.live(name)
        if fault is not None and fault.is_held:
            return "paused" if fault.kind is Kind.PAUSE else "stopped"
        if part.pid is None:
            return "down"
        try:
            ready = await asyncio.wait_for(part.ready(), PROBE_SECONDS)
        except TimeoutError:
            return "silent"
        return RUNS if ready else "not ready"
