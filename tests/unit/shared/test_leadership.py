"""A leader is certain only as long as its lease lasts, and releases what it may hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.leadership import Leadership
from shared.refusals import Unavailable

NOBODY: Any = None  # the connection, which only the schema's own queries use


class Lease:
    """The lease of a schema: it answers what the test says, and keeps for how long it was taken."""

    def __init__(self, *, free: bool = True) -> None:
        self.free = free
        self.broken = False
        self.taken: list[float] = []

    async def take(self, _connection: Any, seconds: float) -> bool:
        self.taken.append(seconds)
        if self.broken:
            raise Unavailable("the answer is lost")
        return self.free

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        yield


async def test_leader_is_certain_until_its_lease_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = asyncio.get_running_loop().time()
    leadership = Leadership(Lease().take)
    assert await leadership.renew(NOBODY, 60)
    assert leadership.is_certain
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now + 61, raising=False)
    assert not leadership.is_certain, "this process was paused"


async def test_lease_counts_from_the_question_not_from_the_answer() -> None:
    lease = Lease()

    async def late(connection: Any, seconds: float) -> bool:
        await asyncio.sleep(0.02)
        return await lease.take(connection, seconds)

    leadership = Leadership(late)
    assert await leadership.renew(NOBODY, 0.01)
    assert not leadership.is_certain


async def test_replica_that_never_asked_is_not_certain() -> None:
    assert not Leadership(Lease().take).is_certain


async def test_replica_that_loses_the_election_is_not_certain() -> None:
    lease = Lease()
    leadership = Leadership(lease.take)
    await leadership.renew(NOBODY, 60)
    lease.free = False
    assert not await leadership.renew(NOBODY, 60)
    assert not leadership.is_certain


async def test_release_ends_the_lease_only_of_a_possible_leader() -> None:
    lease: Any = Lease(free=False)
    leadership = Leadership(lease.take)
    await leadership.release(lease)
    await leadership.renew(NOBODY, 60)
    await leadership.release(lease)
    assert lease.taken == [60], "another process is the leader"
    lease.broken = True
    with pytest.raises(Unavailable):
        await leadership.renew(NOBODY, 60)
    await leadership.release(lease)
    assert lease.taken == [60, 60, 0], "the lost answer may have been a yes"
