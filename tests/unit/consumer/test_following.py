"""A forged watermark is named, and decides nothing: time and offsets come from the relay and from Kafka."""

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from deploy.consumer import watermarks
from deploy.consumer.runtime import Unavailable
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.watermarks import Watermark, Watermarks, why_forged
from tests.unit.consumer.database import Database

SETTINGS = ConsumerSettings.model_validate(
    {"database_url": "postgresql://nowhere", "kafka_bootstrap_servers": "nowhere:1"}
)
UP_TO = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
OLDEST = UP_TO - timedelta(days=7)
ENDS = {"0": 5, "1": 7}
PARKED = [{"order_id": "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c12", "sequence": 2}]


def announced(up_to: datetime = UP_TO, partitions: Mapping[str, int] | None = None) -> Watermark:
    return {"up_to": up_to.isoformat(), "partitions": partitions or ENDS, "missing": PARKED, "missing_count": 1}


class Relay:
    """Stands in for the relay's API."""

    def __init__(self, up_to: datetime | None = UP_TO) -> None:
        self._up_to = up_to

    async def up_to(self) -> datetime | None:
        return self._up_to

    async def oldest(self) -> datetime:
        return OLDEST


def following(read: deque[Watermark], relay: Any, database: Any, monkeypatch: pytest.MonkeyPatch) -> Watermarks:
    async def ends(*_: object) -> dict[str, int]:
        return ENDS

    monkeypatch.setattr(watermarks, "topic_ends", ends)
    return Watermarks(SETTINGS, database, {SETTINGS.topic: relay}, {SETTINGS.topic: read})


FORGED: dict[str, Watermark] = {
    "later than the relay": announced(UP_TO + timedelta(microseconds=1)),
    "in the last year": announced(datetime(9998, 1, 1, tzinfo=UTC)),
    "beyond its partition's end": announced(partitions={"0": 6}),
    "far beyond its partition's end": announced(partitions={"0": 2**62}),
    "of a partition that is not there": announced(partitions={"0": 0, "2": 0}),
}


@pytest.mark.parametrize("body", FORGED.values(), ids=FORGED)
async def test_stream_of_forged_watermarks_is_named_and_stores_the_relays(
    body: Watermark, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, database = deque([body] * 99), Database()
    with capture_logs() as logs:
        await following(read, Relay(), database, monkeypatch).follow()
    assert [(line["event"], line["up_to"]) for line in logs] == [("watermark.forged", body["up_to"])] * 99
    assert database.arguments("keep_watermark") == [(SETTINGS.topic, UP_TO, OLDEST, ENDS, None, None)]
    assert not read


@pytest.mark.parametrize("partitions", [ENDS, {"0": 0}], ids=["as the topic", "behind the topic"])
async def test_true_watermark_among_forged_ones_names_the_missing_events(
    partitions: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = FORGED["in the last year"]
    read, database = deque([forged, announced(UP_TO - timedelta(seconds=2), partitions), forged]), Database()
    await following(read, Relay(), database, monkeypatch).follow()
    assert database.arguments("keep_watermark") == [(SETTINGS.topic, UP_TO, OLDEST, ENDS, PARKED, 1)]


async def test_any_watermark_is_forged_and_nothing_stored_before_the_relay_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = Database()
    with capture_logs() as logs:
        await following(deque([announced()]), Relay(None), database, monkeypatch).follow()
    assert ([line["event"] for line in logs], database.arguments("keep_watermark")) == (["watermark.forged"], [])


async def test_nobody_is_asked_without_a_watermark() -> None:
    nothing: Any = None
    await Watermarks(SETTINGS, nothing, {SETTINGS.topic: nothing}, {SETTINGS.topic: deque()}).follow()


async def test_watermark_waits_while_the_relay_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(Relay):
        async def up_to(self) -> datetime | None:
            raise Unavailable("away")

    read = deque([announced()])
    with pytest.raises(Unavailable):
        await following(read, Away(), Database(), monkeypatch).follow()
    assert len(read) == 1


async def test_watermark_read_while_the_relay_is_asked_is_left_for_the_next_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(Relay):
        async def up_to(self) -> datetime | None:
            read.append(announced(UP_TO + timedelta(seconds=2)))
            return UP_TO

    read = deque([announced()], maxlen=100)
    with capture_logs() as logs:
        await following(read, Slow(), Database(), monkeypatch).follow()
    assert (len(read), logs) == (1, [])


def test_watermark_as_far_as_relay_and_topic_is_not_forged() -> None:
    assert why_forged(announced(), UP_TO, ENDS) is None
