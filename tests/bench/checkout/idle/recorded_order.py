"""Runs the order service and records its batches: `python -m tests.bench.checkout.idle.recorded_order`.

The service's own code stays as it is: the records come from a subclass of its scheduler and from a wrapper around its
batcher's `_run_batch`, at some microseconds a batch. At its end the process writes them into a folder: BENCH_BATCHES.
"""

import atexit
import json
import os
import runpy
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.order import process
from shared import pacing
from shared.batcher import Batcher

FOLDER = "BENCH_BATCHES"
_batches: list[tuple[str, int, int, int]] = []
_slots: list[tuple[str, int, int, int, int]] = []
_count: list[int] = []


class RecordingScheduler(pacing.BatchScheduler):
    """Records when a batcher asked for a slot and got it, when its batch ended, and when the slot was free again."""

    def __init__(self, count: int, steps: Sequence[str]) -> None:
        """Record the number of slots as well."""
        super().__init__(count, steps)
        _count.append(count)
        self._given: dict[str, int] = {}

    @asynccontextmanager
    async def slot(self, batcher: pacing.Waiting) -> AsyncIterator[None]:
        """Wait for a slot as the scheduler does."""
        asked = time.monotonic_ns()
        async with super().slot(batcher):
            yield
            ended = time.monotonic_ns()
        given = self._given[batcher.name]
        # The scheduler takes a slot back after SLOT_SECONDS, whether or not the batch has ended.
        free = min(time.monotonic_ns(), given + int(pacing.SLOT_SECONDS * 1e9))
        _slots.append((batcher.name, asked, given, min(ended, free), free))

    def _next(self) -> "pacing._Waiter | None":
        waiter = super()._next()
        if waiter is not None:  # the caller gives it the slot at once
            self._given[waiter.batcher.name] = time.monotonic_ns()
        return waiter


_run_batch = Batcher._run_batch


async def _recorded(batcher: Batcher[Any, Any], batch: list[Any]) -> None:
    began = time.monotonic_ns()
    await _run_batch(batcher, batch)
    _batches.append((batcher.name, began, time.monotonic_ns(), len(batch)))


def _write(folder: Path) -> None:
    (folder / f"{os.getpid()}.json").write_text(
        json.dumps({"batches": _batches, "slots": _slots, "count": sum(_count)})
    )


if __name__ == "__main__":
    atexit.register(_write, Path(os.environ[FOLDER]))
    setattr(process, "BatchScheduler", RecordingScheduler)  # noqa: B010 - not a name that the module exports
    Batcher._run_batch = _recorded  # type: ignore[assignment,method-assign]
    runpy.run_module("services.order", run_name="__main__", alter_sys=True)
