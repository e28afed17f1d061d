"""What a process notes about its topics, and when it waits before it believes a broker."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from services.relay import store
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.topics import Topic
from services.relay.publishing.topic_watch import TopicWatch
from services.relay.settings import RelaySettings

SHARDS = 4


class Watched:
    """A watch, the number of partitions that the database has recorded, and the one that the broker describes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")
        self.recorded: int | None = 4
        self.there = 4
        self.created: list[str] = []
        self.concurrent = self.concurrent_max = 0
        self.broker = Broker(settings)
        self.watch = TopicWatch(settings, self.broker, self._connection)
        monkeypatch.setattr(self.broker, "look_at_topics", self._look_at_topics)
        monkeypatch.setattr(store, "topic_partitions", self._topic_partitions)
        monkeypatch.setattr(store, "record_partitions", self._record_partitions)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        yield None

    async def _topic_partitions(self, *_: Any) -> tuple[int | None, datetime, int]:
        return self.recorded, datetime.now(UTC), SHARDS

    async def _record_partitions(self, _: Any, __: str, number: int, *, fewer: bool = False) -> int:
        self.recorded = number if fewer else max(number, self.recorded or 0)
        return self.recorded

    async def _look_at_topics(self, *_: Any, **__: Any) -> tuple[dict[str, Topic], list[str]]:
        self.concurrent += 1
        self.concurrent_max = max(self.concurrent_max, self.concurrent)
        for _step in range(3):
            await asyncio.sleep(0)
        self.concurrent -= 1
        compacted = {"cleanup.policy": "compact"}
        topics = [
            Topic("orders.v1", self.there, 1, {"cleanup.policy": "delete"}),
            Topic("orders.v1.positions", SHARDS, 1, compacted),
            Topic("orders.v1.watermarks", 1, 1, compacted),
        ]
        return {topic.name: topic for topic in topics}, self.created

    async def look(self) -> None:
        """Look at the topics once, as after a failure."""
        self.broker.topics_seen = False
        await self.watch.ensure()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


async def run_once(watch: TopicWatch) -> None:
    """Let the watch look once by itself."""
    stop = asyncio.Event()
    running = asyncio.create_task(watch.run(stop))
    await asyncio.sleep(0)
    stop.set()
    await running


@pytest.mark.parametrize(
    "call",
    [lambda watch: watch.ensure(), lambda watch: watch.declare(), run_once],
    ids=["take-over", "bootstrap", "by itself"],
)
async def test_one_look_at_a_time_so_that_an_older_view_does_not_replace_a_newer_one(
    watched: Watched, call: Callable[[TopicWatch], Coroutine[Any, Any, None]]
) -> None:
    await asyncio.gather(call(watched.watch), call(watched.watch), call(watched.watch))
    assert watched.concurrent_max == 1


async def test_broker_is_asked_again_before_added_partitions_are_refused(watched: Watched) -> None:
    await watched.look()
    watched.recorded = 8  # another replica has seen them
    with pytest.raises(BrokerFailed, match="4 partitions as far as this broker knows, and 8 by the record"):
        await watched.look()
    assert watched.broker.view.refused is None
    await run_once(watched.watch)
    assert "had 8" in str(watched.broker.view.refused)


async def test_process_that_knows_no_number_yet_refuses_fewer_partitions_than_recorded(watched: Watched) -> None:
    watched.recorded = 8
    await run_once(watched.watch)
    assert "had 8" in str(watched.broker.view.refused)


async def test_topic_is_recreated_only_if_it_was_there_before(watched: Watched) -> None:
    watched.created = ["orders.v1"]
    await watched.look()
    assert watched.broker.view.made_again == 0, "the first start of all"
    await run_once(watched.watch)
    assert watched.broker.view.made_again == 1
    watched.created = ["orders.v1.watermarks"]
    await run_once(watched.watch)
    assert watched.broker.view.made_again == 1, "nothing was published into it"
