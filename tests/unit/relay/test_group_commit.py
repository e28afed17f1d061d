"""The producer of a group is opened once for all shards that want it, and they fail group."""

import asyncio
from typing import Any

import pytest

from services.relay import group_commit
from services.relay.clients import BrokerFailed
from services.relay.group_commit import GroupCommit
from services.relay.settings import RelaySettings
from shared.waiting import ended


class Hanging:
    """Stands in for a publisher: opening it takes until it is told how to end."""

    made: "list[Hanging]"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.may_be_dropped = asyncio.Event()
        self.may_be_dropped.set()
        self.dropped = False
        self.made.append(self)

    async def open(self) -> None:
        await self.outcome

    async def drop(self) -> None:
        await ended(self._end())

    async def _end(self) -> None:
        await self.may_be_dropped.wait()
        self.dropped = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Hanging]:
    Hanging.made = []
    monkeypatch.setattr(group_commit, "Publisher", Hanging)
    return Hanging.made


@pytest.fixture
def group() -> GroupCommit:
    settings = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")
    return GroupCommit(settings, lambda: 4)


async def settling(group: GroupCommit, count: int) -> "list[asyncio.Task[None]]":
    tasks = [asyncio.create_task(group.settle()) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_all_shards_wait_for_one_attempt_and_fail_with_it(group: GroupCommit, made: list[Hanging]) -> None:
    tasks = await settling(group, 4)
    [attempt] = made
    attempt.outcome.set_exception(BrokerFailed("it hangs"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [BrokerFailed] * 4
    assert attempt.dropped
    [again] = await settling(group, 1)
    made[1].outcome.set_result(None)
    await again
    await group.settle()
    assert len(made) == 2, "what is open is not opened again"
    await group.close()
    assert made[1].dropped


async def test_an_attempt_outlives_a_shard_that_is_stopped(group: GroupCommit, made: list[Hanging]) -> None:
    stopped, waiting = await settling(group, 2)
    stopped.cancel()
    await asyncio.sleep(0)
    made[0].outcome.set_result(None)
    await waiting
    assert len(made) == 1
    await group.close()


async def test_an_attempt_under_way_ends_with_the_group(group: GroupCommit, made: list[Hanging]) -> None:
    [task] = await settling(group, 1)
    await group.close()
    assert made[0].dropped
    await asyncio.wait([task])
    assert task.cancelled()


async def test_the_group_ends_only_once_a_failed_attempt_is_dropped(group: GroupCommit, made: list[Hanging]) -> None:
    [task] = await settling(group, 1)
    made[0].may_be_dropped.clear()
    made[0].outcome.set_exception(BrokerFailed("it hangs"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(group.close())
    done, _ = await asyncio.wait([closing], timeout=0.05)
    assert not done
    made[0].may_be_dropped.set()
    await closing
    assert made[0].dropped
    await asyncio.wait([task])
