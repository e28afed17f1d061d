"""What measures a backlog measures again soon after it was stopped, so that the alert ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from services.order.backlog import Backlog
from services.relay import metrics
from shared.postgres.connections import Pool


class Stopped:
    """Stands in for a pool: each use takes a thousand seconds of the clock, and then fails."""

    def __init__(self) -> None:
        self.now = 0.0

    def connection(self) -> Any:
        self.now += 1000
        raise OSError("the connection is gone")


LOOPS: dict[str, Callable[[Pool], Awaitable[None]]] = {
    "order": lambda pool: Backlog(pool).run(),
    "relay": lambda pool: metrics.measure_backlog(pool, cast("Any", None)),
}


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_stopped_process_measures_again_within_a_minute(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, pauses = Stopped(), list[float]()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(time, "monotonic", lambda: pool.now)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await LOOPS[loop](cast("Pool", pool))
    assert pauses[0] <= 60
