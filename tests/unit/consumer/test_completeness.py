"""How the reference consumer compares minutes with the relay: which ones, and what it keeps of a difference."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from deploy.consumer.completeness import (
    FINDINGS_MAX,
    Completeness,
    judge,
    reached,
)
from deploy.consumer.events import digest
from deploy.consumer.relay import BucketGone, Item
from deploy.consumer.runtime import REGISTRY
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.verification import decode_all
from shared.ids import uuid7
from tests.infrastructure.waiting import eventually
from tests.unit.consumer.database import Database

SETTINGS = ConsumerSettings.model_validate(
    {"database_url": "postgresql://nowhere", "kafka_bootstrap_servers": "nowhere:1"}
)
FIRST = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
SECOND = FIRST + timedelta(minutes=1)
END = FIRST + timedelta(minutes=2)
UNPUBLISHED = {"event_id": str(uuid7()), "order_id": str(uuid7()), "sequence": 1, "status": "PENDING", "sha256": None}


class Relay:
    """Stands in for the relay's API: it has no minute before `oldest`; its digests and events are of any minute."""

    def __init__(self, oldest: datetime = FIRST, digests: Sequence[Item] = (), events: Sequence[Item] = ()) -> None:
        self._oldest = oldest
        self._digests = digests
        self._events = events
        self.asked: list[datetime] = []

    async def digests(self, start: datetime, *_: object) -> tuple[Sequence[Item], int, None]:
        self.asked.append(start)
        if start < self._oldest:
            raise BucketGone(self._oldest)
        return self._digests, 4, None

    async def events_of_bucket(self, *_: object) -> Sequence[Item]:
        return self._events


async def check(relay: Relay, database: Database) -> None:
    pool: Any = database
    api: Any = relay
    await Completeness(SETTINGS, pool, {SETTINGS.topic: api}).check()


def watermark(checked_up_to: datetime, **partitions: int) -> dict[str, Any]:
    return {"up_to": END, "oldest": FIRST, "checked_up_to": checked_up_to, "partitions": partitions}


def of_minute(bucket: datetime, *, count: int = 0) -> Item:
    """Return the digest of a closed minute; with count 0, it equals ours if we have nothing."""
    return {"bucket": bucket.isoformat(), "shard": 0, "closed": True, "count": count, "hash": digest([])[1]}


@pytest.mark.parametrize(
    ("positions", "expected"), [({0: 5, 1: 0}, True), ({0: 4, 1: 0}, False), ({0: 5}, False), ({}, False)], ids=str
)
def test_watermark_is_reached_once_each_partition_was_read_up_to_it(positions: dict[int, int], expected: bool) -> None:
    row: Any = {"partitions": {"0": 5, "1": 0}}
    assert reached(row, positions) == expected


def test_only_a_closed_minute_is_judged() -> None:
    ours: dict[Any, Any] = {uuid7(): {"sha256": b"x"}}
    count, hash_ = digest((event_id, row["sha256"]) for event_id, row in ours.items())
    item = {"closed": True, "count": count, "hash": hash_}
    assert [judge(item, ours), judge(item, {})] == ["EQUAL", "DIFFERS"]
    assert [judge({**item, "closed": False}, own) for own in (ours, {})] == ["OPEN", "OPEN"]


@pytest.mark.parametrize("row", [None, watermark(FIRST, **{"0": 6})], ids=["no watermark", "not reached"])
async def test_no_minute_is_compared_before_a_watermark_is_reached(row: dict[str, Any] | None) -> None:
    relay, database = Relay(), Database(watermark=row, positions=[{"partition": 0, "position": 5}])
    await check(relay, database)
    assert relay.asked == []
    assert database.arguments("set_removed_before") == [], "older records may be unread"


async def test_comparison_continues_after_minutes_that_the_relay_removed() -> None:
    relay, database = Relay(oldest=SECOND), Database(watermark=watermark(FIRST))
    await check(relay, database)
    assert relay.asked == [FIRST, SECOND]
    assert database.arguments("set_checked") == [(SETTINGS.topic, END)]
    assert database.arguments("set_removed_before") == [(SETTINGS.topic, FIRST)]


async def test_minute_that_the_relay_removed_stays_as_it_is_and_does_not_stop_the_next() -> None:
    rows = [
        {"bucket": FIRST, "shard": 3, "state": "DIFFERS", "findings": [{"kind": "missing"}]},
        {"bucket": SECOND, "shard": 0, "state": "STALE", "findings": []},
    ]
    database = Database(watermark=watermark(END), buckets_to_compare=rows)
    await check(Relay(oldest=SECOND, digests=[of_minute(SECOND)]), database)
    assert database.arguments("put_bucket") == [
        (SETTINGS.topic, FIRST, 3, "DIFFERS", [{"kind": "missing"}]),
        (SETTINGS.topic, SECOND, 0, "EQUAL", []),
    ]


async def test_stored_findings_of_a_minute_are_bounded_and_the_log_has_their_count() -> None:
    ours = [{"event_id": uuid7(), "order_id": uuid7(), "sequence": 1, "sha256": b"x"} for _ in range(FINDINGS_MAX + 1)]
    database = Database(watermark=watermark(FIRST), events_of_bucket=ours)
    with capture_logs() as logs:
        await check(Relay(digests=[of_minute(FIRST)]), database)
    ((_, _, _, state, findings),) = database.arguments("put_bucket")
    assert (state, len(findings)) == ("DIFFERS", FINDINGS_MAX)
    (entry,) = logs
    assert (entry["unexpected"], len(entry["orders"])) == (FINDINGS_MAX + 1, FINDINGS_MAX)


async def test_event_that_is_not_published_is_neither_missing_nor_decoded() -> None:
    database = Database(watermark=watermark(FIRST))
    await check(Relay(digests=[of_minute(FIRST, count=1)], events=[UNPUBLISHED]), database)
    assert database.arguments("put_bucket") == [(SETTINGS.topic, FIRST, 0, "DIFFERS", [])]
    assert decode_all([UNPUBLISHED], SETTINGS.topic) == ([], [])


async def test_proven_lag_grows_while_it_can_not_be_measured() -> None:
    pool: Any = Database()
    completeness = Completeness(SETTINGS, pool, {SETTINGS.topic: cast("Any", Relay())})

    async def grown(least: float) -> bool:
        lag = REGISTRY.get_sample_value("consumer_proven_lag_seconds")
        return lag is not None and lag > least

    await eventually(lambda: grown(0.05), 5, "a lag since the start")
    counts = {"dead_letters": 0, "waiting_orders": 0, "differing_buckets": 0, "forged_events": 0, "now": END}
    pool._answers |= {"counts": counts, "watermark": watermark(FIRST)}
    await completeness.measure()
    await eventually(lambda: grown((END - FIRST).total_seconds() + 0.05), 5, "a lag since the last proof")
