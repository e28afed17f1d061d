"""A model of two cells: whatever happens, nothing that a relay has published is missing before `proven_up_to`."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from deploy.consumer.completeness import Completeness, proven_over, proven_topics
from deploy.consumer.events import digest
from deploy.consumer.relay import Item
from deploy.consumer.runtime import Unavailable
from deploy.consumer.settings import ConsumerSettings
from tests.unit.consumer.database import NAMES

SETTINGS = ConsumerSettings.model_validate(
    {
        "database_url": "postgresql://nowhere",
        "kafka_bootstrap_servers": "nowhere:1",
        "topics": "orders.v1=http://relay-0 orders.c01.v1=http://relay-1",
    }
)
TOPICS = list(SETTINGS.sources)
START = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
MINUTES = 4
HASH = bytes(32)


def minute(number: int) -> datetime:
    return START + timedelta(minutes=number)


@dataclass
class Cell:
    """A relay and its topic: the minute of each published event, how many the consumer has read, and which are lost."""

    events: list[tuple[UUID, int]] = field(default_factory=list)
    read: int = 0
    away: bool = False
    closed: int = 0  # minutes before this one are over, and all their events are published

    async def digests(self, start: datetime, end: datetime, _shard: int | None = None) -> tuple[list[Item], int, None]:
        if self.away:
            raise Unavailable("the relay is stopped")
        numbers = [number for number in range(MINUTES) if start <= minute(number) < end]
        return [self._digest(number) for number in numbers], 4, None

    def _digest(self, number: int) -> Item:
        count, hash_ = digest((event_id, HASH) for event_id, own in self.events if own == number)
        return {
            "bucket": minute(number).isoformat(),
            "shard": 0,
            "closed": number < self.closed,
            "count": count,
            "hash": hash_,
        }

    async def keeps(self, _: datetime) -> bool:
        return True

    async def events_of_bucket(self, *_: object) -> list[Item]:
        raise Unavailable("it stops before it can say what is missing")


class Platform:
    """The consumer's tables, as far as the proof needs them."""

    def __init__(self) -> None:
        self.cells = {topic: Cell() for topic in TOPICS}
        self.stored: dict[str, dict[UUID, int]] = {topic: {} for topic in TOPICS}
        self.watermarks: dict[str, dict[str, Any]] = {}
        self.buckets: dict[tuple[str, datetime], str] = {}
        self.begins: dict[str, datetime] = {}
        pool: Any = self
        relays: Any = self.cells
        self.completeness = Completeness(SETTINGS, pool, relays)

    @asynccontextmanager
    async def connection(self) -> Any:
        yield self

    transaction = connection

    async def _run(self, query: str, *arguments: Any) -> Any:
        return None if query.startswith("LOCK") else getattr(self, NAMES[query])(*arguments)

    fetch = fetchrow = fetchval = execute = _run

    # The queries.
    def watermark(self, topic: str) -> Any:
        return self.watermarks.get(topic)

    def positions(self, topic: str) -> Any:
        return [{"partition": 0, "position": self.cells[topic].read}]

    def first_event_at(self, topic: str) -> Any:
        first = min(map(minute, self.stored[topic].values()), default=None)
        self.begins[topic] = first or minute(self.cells[topic].closed)
        return first

    def set_removed_before(self, *_: object) -> None: ...
    def doubt_before(self, *_: object) -> None: ...

    def set_checked(self, topic: str, up_to: datetime) -> None:
        self.watermarks[topic]["checked_up_to"] = up_to

    def put_bucket(self, topic: str, bucket: datetime, _shard: int, state: str, _findings: object) -> None:
        self.buckets[topic, bucket] = state

    def buckets_to_compare(self, topic: str, *_: object) -> Any:
        return self._unequal(topic)

    def unproven_buckets(self, topic: str, *_: object) -> Any:
        return self._unequal(topic)

    def _unequal(self, topic: str) -> list[dict[str, Any]]:
        found = sorted(key for key, state in self.buckets.items() if key[0] == topic and state != "EQUAL")
        return [{"bucket": bucket, "shard": 0, "state": "STALE", "findings": []} for _, bucket in found]

    def events_of_bucket(self, bucket: datetime, _shard: int, topic: str, _shards: int) -> Any:
        own = [event_id for event_id, number in self.stored[topic].items() if minute(number) == bucket]
        return [{"event_id": event_id, "sha256": HASH, "order_id": event_id, "sequence": 1} for event_id in own]

    # The steps.
    def publish(self, topic: str, number: int) -> None:
        cell = self.cells[topic]
        cell.events.append((UUID(int=len(cell.events) + 1000 * TOPICS.index(topic)), max(number, cell.closed)))

    def read(self, topic: str, *, lost: bool) -> None:
        """Read the next record. If it was lost on its way, the position moves without it."""
        cell = self.cells[topic]
        if cell.read < len(cell.events):
            event_id, number = cell.events[cell.read]
            cell.read += 1
            if not lost:
                self.stored[topic][event_id] = number
                if (topic, minute(number)) in self.buckets:
                    self.buckets[topic, minute(number)] = "STALE"

    def announce(self, topic: str, number: int) -> None:
        cell = self.cells[topic]
        cell.closed = max(cell.closed, number)
        known = self.watermarks.setdefault(topic, {"checked_up_to": None, "oldest": None})
        known |= {"up_to": minute(cell.closed), "partitions": {"0": len(cell.events)}}

    def stop_or_start(self, topic: str) -> None:
        self.cells[topic].away = not self.cells[topic].away

    async def check(self) -> None:
        with suppress(Unavailable):
            await self.completeness.check()

    async def assert_true(self) -> None:
        """Check that what is proven is there, and that no topic is proven to be further than its relay says."""
        db: Any = self
        times = await proven_topics(db, TOPICS)
        proven, waits_for = proven_over(times)
        assert set(waits_for) == (
            {one for one in TOPICS if times[one] == proven} if len(set(times.values())) > 1 else set()
        )
        for topic, cell in self.cells.items():
            if proven is not None:
                lacking = [minute(number) for event_id, number in cell.events if event_id not in self.stored[topic]]
                # What was lost before the first comparison's beginning was never compared, as with one topic.
                assert all(at >= proven or at < self.begins[topic] for at in lacking), f"{topic} lacks an event"
                assert proven <= minute(cell.closed)


def steps() -> st.SearchStrategy[list[Callable[[Platform], object]]]:
    topics, numbers = st.sampled_from(TOPICS), st.integers(0, MINUTES)
    return st.lists(
        st.one_of(
            st.builds(lambda t, n: lambda model: model.publish(t, min(n, MINUTES - 1)), topics, numbers),
            st.builds(lambda t, lost: lambda model: model.read(t, lost=lost), topics, st.booleans()),
            st.builds(lambda t, n: lambda model: model.announce(t, n), topics, numbers),
            st.builds(lambda t: lambda model: model.stop_or_start(t), topics),
        ),
        max_size=25,
    )


@given(steps())
@settings(max_examples=150, deadline=None)
def test_no_published_event_is_missing_before_the_time_that_is_proven(
    taken: list[Callable[[Platform], object]],
) -> None:
    async def run() -> None:
        model = Platform()
        for step in taken:
            step(model)
            await model.check()
            await model.assert_true()

    with capture_logs():
        asyncio.run(run())


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([1], (1, [])),
        ([1, 1], (1, [])),
        ([2, 1], (1, ["b"])),
        ([2, None], (None, ["b"])),
        ([None, None], (None, [])),
        ([1, 2, 1], (1, ["a", "c"])),
    ],
)
def test_proof_over_topics_is_the_earliest_and_names_who_is_behind(
    times: list[int | None], expected: tuple[int | None, list[str]]
) -> None:
    given_times = {name: None if time is None else minute(time) for name, time in zip("abc", times, strict=False)}
    proven, behind = proven_over(given_times)
    assert (proven, behind) == (None if expected[0] is None else minute(expected[0]), expected[1])


async def test_topic_without_events_does_not_keep_the_others_from_being_proven() -> None:
    model = Platform()
    model.publish(TOPICS[0], 0)
    model.read(TOPICS[0], lost=False)
    for topic in TOPICS:
        model.announce(topic, 2)
    await model.check()
    db: Any = model
    assert await proven_topics(db, TOPICS) == dict.fromkeys(TOPICS, minute(2))


async def test_relay_that_is_stopped_holds_up_only_its_own_topic() -> None:
    model = Platform()
    for topic in TOPICS:
        model.publish(topic, 0)
        model.read(topic, lost=False)
        model.announce(topic, 2)
    model.stop_or_start(TOPICS[0])
    await model.check()
    db: Any = model
    times = await proven_topics(db, TOPICS)
    assert (times[TOPICS[1]], proven_over(times)) == (minute(2), (None, [TOPICS[0]]))
