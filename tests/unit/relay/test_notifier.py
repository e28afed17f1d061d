"""Which shards the notifier wakes at a notification and at the poll interval."""

from typing import Any

import pytest

from services.relay.publishing.notifier import Notifier
from services.relay.settings import RelaySettings


class Publisher:
    """Stands in for a shard's publisher."""

    def __init__(self, shard: int, *, idle: bool, grouped: bool = False) -> None:
        self.shard = shard
        self.idle = idle
        self.grouped = grouped
        self.woken = False

    def wake(self) -> None:
        self.woken = True


class Connection:
    """Stands in for a connection to Postgres, in which these shards have pending events."""

    def __init__(self, *pending: int) -> None:
        self._pending = pending
        self.asked: list[list[int]] = []

    async def fetch(self, _query: str, shards: list[int]) -> list[dict[str, int]]:
        self.asked.append(shards)
        return [{"shard": shard} for shard in shards if shard in self._pending]


async def wake_pending(connection: Any, *publishers: Any, notified: bool) -> list[int]:
    """Run one round, after a notification or the poll interval; return the shards that it wakes."""
    settings = RelaySettings(
        database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1", poll_interval_seconds=0.01
    )
    notifier = Notifier(settings, lambda: publishers)
    if notified:
        notifier._on_notification()
    await notifier._wake_pending(connection)
    assert not notifier._notified.is_set(), "the next round waits"
    return [publisher.shard for publisher in publishers if publisher.woken]


@pytest.mark.parametrize("notified", [True, False])
async def test_idle_shard_is_woken_if_it_has_pending_events(notified: bool) -> None:
    shards = Publisher(0, idle=True), Publisher(1, idle=True)
    assert await wake_pending(Connection(1), *shards, notified=notified) == [1]


@pytest.mark.parametrize("notified", [True, False])
async def test_busy_shard_is_woken_because_it_may_have_claimed_before_the_commit(notified: bool) -> None:
    assert await wake_pending(Connection(), Publisher(0, idle=False), notified=notified) == [0]


async def test_idle_shards_of_a_group_are_all_woken_by_a_notification_without_a_query() -> None:
    connection = Connection()
    shards = Publisher(0, idle=True, grouped=True), Publisher(1, idle=True, grouped=True)
    assert await wake_pending(connection, *shards, notified=True) == [0, 1]
    assert connection.asked == []


async def test_idle_shards_of_a_group_are_queried_at_the_poll_interval() -> None:
    assert await wake_pending(Connection(), Publisher(0, idle=True, grouped=True), notified=False) == []


async def test_connection_is_tried_at_the_poll_interval_even_without_idle_shards() -> None:
    connection = Connection()
    await wake_pending(connection, Publisher(0, idle=False), notified=False)
    assert connection.asked == [[]]
