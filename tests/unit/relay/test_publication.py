"""What a producer sends, in which order, and after which failures it commits nothing."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from aiokafka.errors import KafkaError, for_code

from services.relay.domain.events import Batch, EventsRefused, OutboxEvent
from services.relay.kafka import producer
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.kafka.records import partitions
from services.relay.kafka.topics import TopicView
from services.relay.settings import RelaySettings

SETTINGS = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")
PARTITIONS = 4
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
LONG_AGO_MILLISECONDS = 1_577_836_800_000
NOT_LEADER, INVALID_RECORD = for_code(6), for_code(87)


class RecordBatch:
    """Stands in for the library's record batch: the first record always fits, then so many."""

    def __init__(self, room: int) -> None:
        self.records: list[dict[str, Any]] = []
        self._room = room

    def append(self, **record: Any) -> object | None:
        if self.records and len(self.records) >= self._room:
            return None
        self.records.append(record)
        return record


class Client:
    """Stands in for the library's producer; the test decides which record batches fail, by their first payload."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.steps: list[str] = []
        self.batches: list[list[bytes]] = []
        self.positions: list[dict[str, Any]] = []
        self.answers: dict[bytes, asyncio.Future[None]] = {}
        self.room = 100
        self.last_answer: Exception | None = None
        self.fails_to: str | None = None

    async def _step(self, name: str) -> None:
        self.steps.append(name)
        if self.fails_to == name:
            raise KafkaError(f"can't {name}")

    async def start(self) -> None:
        await self._step("start")

    async def begin_transaction(self) -> None:
        await self._step("begin")

    async def commit_transaction(self) -> None:
        await self._step("commit")

    async def abandon(self) -> None:
        await self._step("abandon")

    async def stop(self) -> None:
        await self._step("stop")

    async def partitions_for(self, _: str) -> set[int]:
        return set(range(PARTITIONS))

    def forget_answer(self) -> None:
        self.last_answer = None

    def create_batch(self) -> RecordBatch:
        return RecordBatch(self.room)

    async def send_batch(self, batch: RecordBatch, _: str, *, partition: int) -> "asyncio.Future[None]":
        assert 0 <= partition < PARTITIONS
        payloads = [record["value"] for record in batch.records]
        self.batches.append(payloads)
        return self.answers.get(payloads[0]) or outcome(None)

    async def send_and_wait(self, topic: str, **record: Any) -> None:
        await self._step("position")
        self.positions.append({"topic": topic, **record})


def outcome(error: Exception | None) -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error) if error else future.set_result(None)
    return future


@pytest.fixture(autouse=True)
def _clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "KafkaProducer", Client)


async def opened(*, transactional: bool = True, view: TopicView | None = None) -> Any:
    opened: Any = EventProducer(SETTINGS, "an id" if transactional else None, view=view)
    await opened.open()
    return opened


def order_of(partition: int) -> str:
    """Return the id of an order whose events are in that partition."""
    ids = (str(UUID(int=number)) for number in range(1000))
    return next(id_ for id_ in ids if partitions([id_.encode()], PARTITIONS) == [partition])


def event(payload: bytes, partition: int = 0) -> OutboxEvent:
    return OutboxEvent(1, "event", order_of(partition), 1, "order.paid.v1", payload, None, datetime.now(UTC))


def batch(*payloads: bytes, partition: int = 0) -> Batch:
    """Return a batch of events in one partition."""
    return Batch(0, 7, [event(payload, partition) for payload in payloads])


async def test_record_batch_that_is_refused_is_followed_by_none_of_its_partition() -> None:
    opened_one = await opened()
    opened_one._producer.answers = {b"one": outcome(INVALID_RECORD())}
    with pytest.raises(EventsRefused) as refused:
        await opened_one.publish(batch(b"one", b"two"), one_by_one=True)
    assert opened_one._producer.batches == [[b"one"]]
    assert [[one.payload for one in chunk] for chunk in refused.value.chunks] == [[b"one"]]


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([INVALID_RECORD()], EventsRefused),
        ([NOT_LEADER()], BrokerFailed),
        ([INVALID_RECORD(), NOT_LEADER()], BrokerFailed),
        ([], BrokerFailed),
    ],
    ids=["refused", "failed", "refused and failed", "position"],
)
async def test_transaction_with_a_failed_send_is_not_committed(
    errors: Sequence[Exception], raised: type[Exception]
) -> None:
    """The library would commit it."""
    opened_one = await opened()
    opened_one._producer.answers = {b"%d" % number: outcome(error) for number, error in enumerate(errors)}
    opened_one._producer.fails_to = None if errors else "position"
    events = [event(b"%d" % number, partition=number) for number in range(PARTITIONS)]
    with pytest.raises(raised):
        await opened_one.publish(Batch(0, 7, events))
    assert "begin" in opened_one._producer.steps
    assert "commit" not in opened_one._producer.steps


async def test_publication_fails_only_once_every_send_has_an_outcome() -> None:
    opened_one = await opened()
    late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    opened_one._producer.answers = {b"0": outcome(NOT_LEADER()), b"1": late}
    publishing = asyncio.create_task(opened_one.publish(Batch(0, 7, [event(b"0", 0), event(b"1", 1)])))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not publishing.done()
    late.set_result(None)
    with pytest.raises(BrokerFailed):
        await publishing


async def test_refusals_of_all_partitions_are_reported_together() -> None:
    opened_one = await opened()
    opened_one._producer.answers = {b"0": outcome(INVALID_RECORD()), b"2": outcome(INVALID_RECORD())}
    with pytest.raises(EventsRefused) as refused:
        await opened_one.publish(Batch(0, 7, [event(b"0", 0), event(b"1", 1), event(b"2", 2)]))
    assert [chunk[0].payload for chunk in refused.value.chunks] == [b"0", b"2"]


@pytest.mark.parametrize("transactional", [True, False])
async def test_batch_number_is_sent_inside_the_transaction_and_never_without_one(*, transactional: bool) -> None:
    opened_one = await opened(transactional=transactional)
    await opened_one.publish(batch(b"one"))
    assert opened_one._producer.batches == [[b"one"]]
    assert opened_one._producer.steps == (["start", "begin", "position", "commit"] if transactional else ["start"])
    positions = [(one["topic"], one["partition"], one["value"]) for one in opened_one._producer.positions]
    assert positions == ([("orders.v1.positions", 0, b"7")] if transactional else [])


async def test_records_have_the_database_s_time_and_not_their_events() -> None:
    view = TopicView()
    view.clock.observe(LONG_AGO)
    opened_one = await opened(view=view)
    [[chunk], *_] = opened_one._chunks([event(b"one")], {}, one_by_one=False)
    await opened_one.publish(batch(b"one"))
    stamps = [chunk.builder.records[0]["timestamp"], opened_one._producer.positions[0]["timestamp_ms"]]
    assert all(abs(stamp - LONG_AGO_MILLISECONDS) < 60_000 for stamp in stamps)


@pytest.mark.parametrize(("known", "used"), [(2, 2), (0, PARTITIONS)], ids=["known", "not known"])
async def test_all_producers_of_a_process_use_the_number_of_partitions_that_it_knows(known: int, used: int) -> None:
    opened_one = await opened(view=TopicView(partitions=known))
    assert len(opened_one._chunks([], {}, one_by_one=False)) == used


@pytest.mark.parametrize(("one_by_one", "sizes"), [(False, [2, 2, 1]), (True, [1] * 5)])
async def test_full_record_batch_is_followed_by_another_without_loss(sizes: list[int], *, one_by_one: bool) -> None:
    opened_one = await opened()
    opened_one._producer.room = 2
    payloads = [b"%d" % number for number in range(5)]
    [chunks, *_] = opened_one._chunks([event(payload) for payload in payloads], {}, one_by_one=one_by_one)
    records = [record["value"] for chunk in chunks for record in chunk.builder.records]
    assert records == [one.payload for chunk in chunks for one in chunk.events] == payloads
    assert [len(chunk.events) for chunk in chunks] == sizes


@pytest.mark.parametrize("answers", [True, False])
async def test_failed_publication_names_the_answer_that_the_library_retried_meanwhile(*, answers: bool) -> None:
    async def begin() -> None:
        if answers:
            opened_one._producer.last_answer = NOT_LEADER()
        raise TimeoutError

    opened_one = await opened()
    opened_one._producer.last_answer = INVALID_RECORD()  # of the batch before
    opened_one._producer.begin_transaction = begin
    with pytest.raises(BrokerFailed) as failed:
        await opened_one.publish(batch(b"one"))
    assert ("the broker answers" in str(failed.value)) == answers
    assert "InvalidRecordError" not in str(failed.value)


async def test_producer_that_could_not_be_opened_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = EventProducer(SETTINGS, "an id")
    monkeypatch.setattr(made._producer, "fails_to", "start")
    with pytest.raises(BrokerFailed):
        async with made:
            pass
    assert made._producer.steps == ["start", "abandon", "stop"]


async def test_producer_is_dropped_at_the_end_although_its_caller_is_cancelled() -> None:
    made: Any = EventProducer(SETTINGS, "an id")
    slow, dropping, go_on = made._producer.abandon, asyncio.Event(), asyncio.Event()

    async def abandon() -> None:
        dropping.set()
        await go_on.wait()
        await slow()

    async def use() -> None:
        async with made:
            pass

    made._producer.abandon = abandon
    task = asyncio.create_task(use())
    await dropping.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with suppress(asyncio.CancelledError):
        await task
    assert made._producer.steps == ["start", "abandon", "stop"]


@pytest.mark.parametrize("transactional", [True, False])
def test_producer_options_bound_duplicates_and_open_transactions(*, transactional: bool) -> None:
    made: Any = EventProducer(SETTINGS, "an id" if transactional else None, chunk_bytes=1234)
    options = made._producer.options
    assert options["enable_idempotence"]
    assert (options["max_batch_size"], options["retry_backoff_ms"]) == (1234, producer.RETRY_BACKOFF_MILLISECONDS)
    assert options.get("transactional_id") == ("an id" if transactional else None)
    assert options.get("transaction_timeout_ms") == (10_000 if transactional else None)
