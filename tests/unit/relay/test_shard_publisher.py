"""One shard's publisher: what it does after a pause, and what it takes from each failure."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.relay.domain.events import Batch, EventsRefused, OutboxEvent
from services.relay.domain.shards import Lease, LeaseLost, TakeOverRefused
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.publishing import failures, shard_publisher
from services.relay.publishing.group_commit import GroupCommit, GroupRefused
from services.relay.publishing.shard_publisher import ShardPublisher
from services.relay.settings import RelaySettings
from shared.refusals import Unavailable

EVENT = OutboxEvent(7, "event", "order", 1, "order.paid.v1", b"{}", None, datetime(2026, 1, 1, tzinfo=UTC))
LEASE = Lease(0, 1, 0, 0, True, None)


class Connection:
    """Stands in for one to Postgres: each query fails, or has these rows after some time."""

    def __init__(self, *, rows: int | None, seconds: float = 0.0) -> None:
        self._rows = rows
        self._seconds = seconds

    async def fetch(self, *_: Any, **__: Any) -> list[Any]:
        await asyncio.sleep(self._seconds)
        if self._rows is None:
            raise ConnectionResetError
        return [()] * self._rows


class Producer:
    """Keeps what it is to publish."""

    def __init__(self) -> None:
        self.published: list[Batch] = []

    async def publish(self, batch: Batch, **_: Any) -> None:
        self.published.append(batch)


@pytest.fixture
async def publisher() -> ShardPublisher:
    return made()


def made(**changes: Any) -> ShardPublisher:
    common: dict[str, Any] = {"database_url": "postgresql://nowhere", "kafka_bootstrap_servers": "nowhere:1"}
    settings = RelaySettings(**common, **changes)
    watch: Any = None
    return ShardPublisher(settings, Broker(settings, 4), watch, GroupCommit(settings, lambda: 4), 0)


def refused() -> EventsRefused:
    return EventsRefused("InvalidRecordError", [[EVENT]], too_large=False)


async def test_replica_paused_past_its_lease_publishes_nothing(publisher: ShardPublisher) -> None:
    producer: Any = Producer()
    now = asyncio.get_running_loop().time()
    with pytest.raises(LeaseLost):
        await publisher._send(producer, Batch(0, 1, [EVENT]), now - 0.001)
    assert producer.published == []
    await publisher._send(producer, Batch(0, 1, [EVENT]), now + 60)
    assert len(producer.published) == 1


@pytest.mark.parametrize(
    ("error", "failing"),
    [
        (BrokerFailed("away"), True),
        (Unavailable("away"), True),
        (ValueError("a bug"), True),
        (GroupRefused("another shard's event, perhaps"), False),
    ],
    ids=["broker", "database", "bug", "group"],
)
async def test_failures_in_a_row_are_trouble_unless_the_broker_answers(
    publisher: ShardPublisher, error: Exception, *, failing: bool
) -> None:
    for _ in range(failures.FAILING_AFTER - 1):
        publisher._failed(error)
    assert not publisher.failures.failing
    publisher._failed(error)
    assert publisher.failures.failing is failing


async def test_parking_one_event_after_the_other_is_no_trouble(publisher: ShardPublisher) -> None:
    for _ in range(4 * failures.FAILING_AFTER):
        publisher._failed(refused())
        publisher._isolation.batch_published()
        publisher._failed(refused())
        publisher._failed(refused())
    assert not publisher.failures.failing


async def test_batch_that_succeeds_ends_the_trouble(publisher: ShardPublisher) -> None:
    for _ in range(failures.FAILING_AFTER):
        publisher._failed(BrokerFailed("away"))
    publisher._out(1)
    assert not publisher.failures.failing


async def test_refused_shard_goes_alone_for_a_while(publisher: ShardPublisher) -> None:
    assert publisher.grouped
    publisher._failed(refused())
    assert not publisher.grouped


async def test_slow_claim_makes_the_shard_go_alone(publisher: ShardPublisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_publisher, "SLOW_SECONDS", 0.01)
    slow: Any = Connection(rows=0, seconds=0.02)
    await publisher._cycle(slow, LEASE, 0)
    assert not publisher.grouped


@pytest.mark.parametrize(
    ("error", "seen"),
    [(BrokerFailed("away"), False), (TakeOverRefused("swapped"), False), (Unavailable("away"), True)],
    ids=["broker", "contradiction", "database"],
)
async def test_topics_are_looked_for_again_after_what_may_have_changed_them(
    publisher: ShardPublisher, error: Exception, *, seen: bool
) -> None:
    publisher._broker.topics_seen = True
    publisher._failed(error)
    assert publisher._broker.topics_seen is seen


async def test_refusal_for_operators_is_told_once_and_until_it_is_over(publisher: ShardPublisher) -> None:
    failing = []
    with capture_logs() as logs:
        for _ in range(2):
            for _ in range(3):
                publisher._failed(TakeOverRefused("swapped"))
            failing.append(publisher.failures.failing)
            publisher.failures.accepted()
            publisher.failures.succeeded()
            failing.append(publisher.failures.failing)
    assert [line["event"] for line in logs].count("shard.refused") == 2
    assert failing == [True, False, True, False]


async def test_pause_grows_with_failures_and_has_a_bound(publisher: ShardPublisher) -> None:
    for in_a_row, least, most in ((1, 0.05, 0.1), (3, 0.2, 0.4), (1000, 2.5, 5.0)):
        publisher.failures.in_a_row = in_a_row
        assert all(least <= publisher.failures.pause_seconds() <= most for _ in range(20))


async def test_event_that_could_not_be_parked_is_parked_after_the_next_take_over() -> None:
    publisher = made(transactions=False)
    publisher._isolation.to_park = [(7, "too large")]
    broken: Any = Connection(rows=None)
    producer: Any = Producer()
    with pytest.raises(ConnectionResetError):
        await publisher._settle(broken, LEASE, producer)
    assert publisher._isolation.to_park == [(7, "too large")]
    parking: Any = Connection(rows=1)
    await publisher._settle(parking, LEASE, producer)
    assert publisher._isolation.to_park == []


@pytest.mark.parametrize("rows", [0, 2])
async def test_event_that_waits_no_more_is_not_told_as_parked(publisher: ShardPublisher, rows: int) -> None:
    connection: Any = Connection(rows=rows)
    with capture_logs() as logs:
        await publisher._park(connection, LEASE, 7, "too large")
    assert [line["events"] for line in logs if line["event"] == "order.parked"] == ([rows] if rows else [])


async def test_idle_shard_renews_its_lease_in_time() -> None:
    publisher = made(lease_seconds=1)
    async with asyncio.timeout(0.9):
        await publisher._rest()
