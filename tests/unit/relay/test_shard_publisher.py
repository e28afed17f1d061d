"""One shard's publisher: its behaviour after a pause and after each failure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.relay import store
from services.relay.domain.batching import SLOW_SECONDS
from services.relay.domain.events import Batch, EventsRefused, OutboxEvent
from services.relay.domain.shards import Lease, LeaseLost, TakeOverRefused
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.publishing import failures, shard_publisher, takeover
from services.relay.publishing.group_commit import GroupCommit, GroupRefused
from services.relay.publishing.shard_publisher import ShardPublisher
from services.relay.settings import RelaySettings
from shared.refusals import Unavailable

EVENT = OutboxEvent(7, "event", "order", 1, "order.paid.v1", b"{}", None, datetime(2026, 1, 1, tzinfo=UTC))
LEASE = Lease(0, 1, 0, 0, True, None)


class Connection:
    """A fake connection to Postgres: each query fails, or returns these rows after some time."""

    def __init__(self, *, rows: int | None, seconds: float = 0.0) -> None:
        self._rows = rows
        self._seconds = seconds

    async def fetch(self, *_: Any, **__: Any) -> list[Any]:
        await asyncio.sleep(self._seconds)
        if self._rows is None:
            raise ConnectionResetError
        return [()] * self._rows


class Producer:
    """A fake producer that records what it gets to publish."""

    def __init__(self) -> None:
        self.published: list[Batch] = []

    async def publish(self, batch: Batch, **_: Any) -> None:
        self.published.append(batch)


class RightTopics:
    """Stands in for the watch over topics that are as they should be."""

    async def ensure(self) -> None: ...


@pytest.fixture
async def publisher() -> ShardPublisher:
    return made()


def made(**changes: Any) -> ShardPublisher:
    common: dict[str, Any] = {"database_url": "postgresql://nowhere", "kafka_bootstrap_servers": "nowhere:1"}
    settings = RelaySettings(**common, **changes)
    watch: Any = None
    return ShardPublisher(settings, Broker(settings), watch, GroupCommit(settings, lambda: 4), 0)


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
async def test_failures_in_a_row_make_a_shard_failing_unless_the_broker_answers(
    publisher: ShardPublisher, error: Exception, *, failing: bool
) -> None:
    for _ in range(failures.FAILING_AFTER - 1):
        publisher._failed(error)
    assert not publisher.failures.failing
    publisher._failed(error)
    assert publisher.failures.failing is failing


async def test_parking_events_one_by_one_does_not_make_the_shard_failing(publisher: ShardPublisher) -> None:
    for _ in range(4 * failures.FAILING_AFTER):
        publisher._failed(refused())
        publisher._isolation.batch_published()
        publisher._failed(refused())
        publisher._failed(refused())
    assert not publisher.failures.failing


async def test_successful_batch_ends_the_failing_state(publisher: ShardPublisher) -> None:
    for _ in range(failures.FAILING_AFTER):
        publisher._failed(BrokerFailed("away"))
    publisher._record_published(1)
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


async def test_refusal_for_operators_is_logged_once_and_reported_until_it_ends(publisher: ShardPublisher) -> None:
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


async def test_state_of_a_failed_shard_has_a_bounded_length(publisher: ShardPublisher) -> None:
    publisher._failed(BrokerFailed("x" * 10 * failures.STATE_CHARACTERS))
    assert len(publisher.state) == failures.STATE_CHARACTERS


async def test_event_that_could_not_be_parked_is_parked_after_the_next_take_over() -> None:
    publisher = made(transactions=False)
    publisher._isolation.to_park = [(7, "too large")]
    broken: Any = Connection(rows=None)
    producer: Any = Producer()
    with pytest.raises(ConnectionResetError):
        await publisher._reconcile(broken, LEASE, producer)
    assert publisher._isolation.to_park == [(7, "too large")]
    parking: Any = Connection(rows=1)
    await publisher._reconcile(parking, LEASE, producer)
    assert publisher._isolation.to_park == []


@pytest.mark.parametrize("rows", [0, 2])
async def test_event_that_no_longer_waits_is_not_reported_as_parked(publisher: ShardPublisher, rows: int) -> None:
    connection: Any = Connection(rows=rows)
    with capture_logs() as logs:
        await publisher._park(connection, LEASE, 7, "too large")
    assert [line["events"] for line in logs if line["event"] == "order.parked"] == ([rows] if rows else [])


async def test_idle_shard_renews_its_lease_in_time() -> None:
    publisher = made(lease_seconds=1)
    async with asyncio.timeout(0.9):
        await publisher._wait_for_work()


@pytest.mark.parametrize(
    ("transactions", "claimed", "opened"),
    [(True, 0, [True]), (True, 5, [True]), (False, 0, [False]), (False, 5, [True, False])],
)
async def test_producer_without_transactions_follows_one_that_settles_those_of_before(
    monkeypatch: pytest.MonkeyPatch, opened: list[bool], claimed: int, *, transactions: bool
) -> None:
    made_with: list[bool] = []

    @asynccontextmanager
    async def producer(_: RelaySettings, transactional_id: str | None, **__: Any) -> AsyncIterator[bool]:
        made_with.append(transactional_id is not None)
        yield made_with[-1]

    async def reconcile(*_: Any) -> int:
        return 7

    async def publish(*arguments: Any) -> None:
        published.append(arguments[2:])

    published: list[Any] = []
    monkeypatch.setattr(shard_publisher, "EventProducer", producer)
    monkeypatch.setattr(takeover, "reconcile_shard", reconcile)
    publisher: Any = made(transactions=transactions)
    publisher._watch = RightTopics()
    publisher._publish = publish
    await publisher._reconcile_and_publish(None, replace(LEASE, claimed=claimed))
    assert made_with == opened
    number = 7 if transactions or claimed else LEASE.number
    assert published == [(number, opened[-1])], "by the last one only"


async def test_shard_that_another_replica_took_over_is_left_without_a_failure(publisher: Any) -> None:
    async def hold() -> None:
        raise LeaseLost("epoch 2")

    publisher._take_and_publish = hold
    with capture_logs() as logs:
        await publisher.run()
    assert [entry["event"] for entry in logs] == ["shard.lease_lost"]
    assert publisher.failures.in_a_row == 0


@pytest.mark.parametrize("transactions", [True, False])
async def test_transactional_id_is_recorded_only_with_transactions(*, transactions: bool) -> None:
    async def note(*arguments: Any) -> None:
        recorded.append(arguments[-1])

    async def cycle(*_: Any) -> list[OutboxEvent]:
        return []

    recorded: list[str] = []
    publisher: Any = made(transactions=transactions)
    publisher._record_transactional_id, publisher._cycle = note, cycle
    assert await publisher._alone(None, LEASE, 0, Producer()) == 0
    assert recorded == ([publisher._settings.shard_name(0)] if transactions else [])


async def test_shard_whose_connection_was_closed_is_taken_over_again(publisher: Any) -> None:
    class Closed:
        def is_closed(self) -> bool:
            return True

    with pytest.raises(Unavailable):
        await publisher._publish(Closed(), LEASE, 0, Producer())


async def test_shard_is_taken_over_again_after_a_topic_was_created_again(publisher: Any) -> None:
    class Open:
        def is_closed(self) -> bool:
            return False

    async def next_batch(*_: Any) -> int:
        batches.append(None)
        assert len(batches) == 1
        publisher._broker.view.made_again += 1
        return 1

    batches: list[None] = []
    publisher._next_batch = next_batch
    with pytest.raises(BrokerFailed):
        await publisher._publish(Open(), LEASE, 0, Producer())


@pytest.mark.parametrize("seconds", [0.0, SLOW_SECONDS * 2, None], ids=["quick", "slow", "failed"])
async def test_shard_goes_alone_after_its_group_failed_or_was_slow(publisher: Any, seconds: float | None) -> None:
    async def record(*_: Any) -> None: ...

    async def round_(*_: Any) -> int:
        if seconds is None:
            raise GroupRefused
        publisher._group.claim_seconds = seconds
        return 1

    publisher._record_transactional_id, publisher._group.round = record, round_
    assert publisher.grouped
    with suppress(GroupRefused):
        await publisher._together(None, LEASE, 0)
    assert publisher.grouped == (seconds == 0.0)


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
async def test_shard_that_failed_is_left_to_other_replicas_if_its_connection_is_open(
    publisher: Any, monkeypatch: pytest.MonkeyPatch, *, closed: bool
) -> None:
    class Open:
        def is_closed(self) -> bool:
            return closed

    @asynccontextmanager
    async def connected(*_: Any) -> AsyncIterator[Open]:
        yield Open()

    async def take_lease(*_: Any) -> Lease:
        return LEASE

    async def release_lease(_: Any, lease: Lease) -> None:
        released.append(lease)

    async def fail(*_: Any) -> None:
        raise BrokerFailed("unreachable")

    released: list[Lease] = []
    monkeypatch.setattr(shard_publisher, "connected", connected)
    monkeypatch.setattr(store, "take_lease", take_lease)
    monkeypatch.setattr(store, "release_lease", release_lease)
    publisher._reconcile_and_publish = fail
    with pytest.raises(BrokerFailed):
        await publisher._take_and_publish()
    assert released == ([] if closed else [LEASE])
