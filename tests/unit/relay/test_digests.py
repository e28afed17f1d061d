"""Digests stay true while the watermark advances and events are removed, and an answer takes a bounded time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from services.relay import store
from services.relay.completeness import digests
from services.relay.completeness import store as queries
from services.relay.completeness.digests import BUCKET, DigestsQuery, EventsQuery
from services.relay.completeness.store import WatermarkStatus
from services.relay.domain.refusals import BucketGone
from shared.http.problems import ValidationFailed

MINUTE = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


class Pool:
    """Stands in for a pool and for its database; `meanwhile` happens while events are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.up_to = MINUTE
        self.removed: datetime | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        monkeypatch.setattr(queries, "watermark", self._watermark)
        monkeypatch.setattr(queries, "digest", self._read)
        monkeypatch.setattr(queries, "events_of_bucket", self._read_none)
        monkeypatch.setattr(store, "removed_up_to", self._removed_up_to)

    @asynccontextmanager
    async def confirmed(self, _: str) -> AsyncIterator[None]:
        yield

    async def _watermark(self, _: Any) -> WatermarkStatus:
        return WatermarkStatus(self.up_to, 0.0, MINUTE + timedelta(hours=2), 4)

    async def _read(self, *_: Any) -> list[dict[str, Any]]:
        self.meanwhile()
        return [{"shard": 0, "count": 0, "hash": "", "any_waiting": False}]

    async def _read_none(self, *_: Any) -> list[Any]:
        self.meanwhile()
        return []

    async def _removed_up_to(self, _: Any) -> datetime | None:
        return self.removed


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Pool(monkeypatch)


def query(minutes: int = 1, **more: str) -> DigestsQuery:
    start, end = MINUTE, MINUTE + minutes * BUCKET
    return DigestsQuery.model_validate({"from": start.isoformat(), "to": end.isoformat(), **more})


async def test_bucket_that_the_watermark_passes_while_it_is_read_is_not_closed(pool: Any) -> None:
    """An event of the bucket may have been committed after the read."""

    def advance() -> None:
        pool.up_to = MINUTE + BUCKET

    pool.meanwhile = advance
    assert [one["closed"] for one in (await digests.digests(pool, query()))["items"]] == [False]
    assert [one["closed"] for one in (await digests.digests(pool, query()))["items"]] == [True]


def events_of_bucket(pool: Any, shard: str = "0") -> Awaitable[object]:
    query = EventsQuery.model_validate({"shard": shard, "bucket": MINUTE.isoformat()})
    return digests._of_bucket(pool, query)


@pytest.mark.parametrize(
    "read",
    [lambda pool: digests.digests(pool, query()), events_of_bucket],
    ids=["digests", "events of a bucket"],
)
async def test_bucket_whose_events_are_removed_while_it_is_read_is_gone(
    pool: Any, read: Callable[[Any], Awaitable[object]]
) -> None:
    def remove() -> None:
        pool.removed = MINUTE

    pool.meanwhile = remove
    with pytest.raises(BucketGone):
        await read(pool)


@pytest.mark.parametrize(
    "read",
    [lambda pool, shard: digests.digests(pool, query(shard=shard)), events_of_bucket],
    ids=["digests", "events of a bucket"],
)
async def test_shard_beyond_the_last_one_is_refused(pool: Any, read: Callable[[Any, str], Awaitable[object]]) -> None:
    await read(pool, "3")
    with pytest.raises(ValidationFailed) as refused:
        await read(pool, "4")
    (error,) = refused.value.members["errors"]
    assert error == {"pointer": "/query/shard", "message": "Input should be less than or equal to 3"}


@pytest.fixture
def _slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at the clock take 0.4 s."""
    looks = count()
    monkeypatch.setattr(digests, "monotonic", lambda: 0.4 * next(looks))


@pytest.mark.usefixtures("_slow_clock")
async def test_answer_that_takes_long_ends_early_and_names_where_to_go_on(pool: Any) -> None:
    answer = await digests.digests(pool, query(minutes=30))
    assert [one["bucket"] for one in answer["items"]] == [MINUTE, MINUTE + BUCKET]
    assert answer["next_from"] == MINUTE + 2 * BUCKET
