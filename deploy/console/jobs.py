"""Work that takes longer than a page may: it goes on in the console, one at a time, and pages show how far it is."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import structlog

log = structlog.get_logger()


@dataclass(slots=True)
class Job:
    """Work of an operator. `about`: what it was asked for. When it has ended, `result` or `error` says how."""

    name: str
    by: str
    about: Mapping[str, Any] = field(default_factory=dict)
    id_: str = field(default_factory=lambda: token_hex(8))
    began_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    result: Mapping[str, Any] | None = None
    error: str = ""

    @property
    def is_running(self) -> bool:
        """Return whether it has not ended."""
        return self.ended_at is None

    @property
    def seconds(self) -> float:
        """Return how long it takes, or has taken."""
        return (self.ended_at or time.time()) - self.began_at


class Jobs:
    """The last job, which others follow only once it has ended. `explain`: returns what to say about an error."""

    def __init__(self, explain: Callable[[Exception], str] = str) -> None:
        self.last: Job | None = None
        self._explain = explain
        self._task: asyncio.Task[None] | None = None

    def begin(self, job: Job, work: Coroutine[Any, Any, Mapping[str, Any]]) -> bool:
        """Begin a job; return whether it could be, because no other one is running."""
        if self.last is not None and self.last.is_running:
            work.close()
            return False
        self.last = job
        self._task = asyncio.create_task(self._run(job, work), name=f"job {job.name}")
        return True

    async def close(self) -> None:
        """Give up what is running."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, job: Job, work: Coroutine[Any, Any, Mapping[str, Any]]) -> None:
        try:
            job.result = await work
        except Exception as error:  # noqa: BLE001 - the page of the job says what it was
            job.error = self._explain(error) or type(error).__name__
            log.info("job.failed", job=job.name, detail=type(error).__name__)
        finally:
            job.ended_at = time.time()
