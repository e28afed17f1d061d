"""When a replica looks at its shards again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.relay.publishing.assignment import ShardAssigner


class Publisher:
    """Stands in for a shard's publisher."""

    def __init__(self, run: Callable[[], Awaitable[None]]) -> None:
        self.run = run


async def lost() -> None: ...


async def bug() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(("run", "at_once"), [(lost, True), (bug, False)])
async def test_replica_looks_for_shards_immediately_after_one_ended_without_a_bug(
    run: Callable[[], Awaitable[None]], at_once: bool
) -> None:
    unused: Any = None
    new_publisher: Any = lambda _: Publisher(run)  # noqa: E731
    assigner = ShardAssigner(unused, unused, unused, new_publisher)
    assigner._start(0)
    [(_, task)] = assigner._publishers.values()
    await asyncio.wait([task])
    await asyncio.sleep(0)  # for the task's callback
    assert assigner.publishers == []
    assert assigner._look.is_set() == at_once
