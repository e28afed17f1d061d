"""A process that stops leaves no leadership behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deploy.consumer import store
from deploy.consumer.__main__ import Leader


class FakePool:
    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        yield None


async def test_leaving_waits_for_a_leadership_that_is_being_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered, done = asyncio.Event(), asyncio.Event(), list[str]()

    async def take(*_: Any) -> str:
        asked.set()
        await answered.wait()
        done.append("taken")
        return "this process"

    async def leave(*_: Any) -> None:
        done.append("left")

    async def work() -> None:
        done.append("worked")

    monkeypatch.setattr(store, "take_leadership", take)
    monkeypatch.setattr(store, "leave_leadership", leave)
    pool: Any = FakePool()
    leader = Leader(pool)
    running = asyncio.create_task(leader.run("prune", work))
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    leaving = asyncio.create_task(leader.leave())
    await asyncio.sleep(0)
    answered.set()
    await leaving
    assert done == ["taken", "left"]
