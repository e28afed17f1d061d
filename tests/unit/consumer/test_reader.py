"""Where the reference consumer reads on, and what it does if its client or its partitions are gone."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from deploy.consumer import reader as module
from deploy.consumer.reader import Reader
from deploy.consumer.runtime import REGISTRY, Unavailable
from deploy.consumer.settings import ConsumerSettings
from tests.unit.consumer.database import Database
from tests.unit.consumer.test_watermarks import BODY, HEADERS

TOPIC = "orders.v1"
PARTITION = TopicPartition(TOPIC, 0)
WATERMARKS = TopicPartition(f"{TOPIC}.watermarks", 5)
SETTINGS = ConsumerSettings.model_validate(
    {"database_url": "postgresql://nowhere", "kafka_bootstrap_servers": "nowhere:1", "topic": TOPIC}
)
BEGIN, END = 5, 9


class Client:
    """Stands in for the library's client. It has one partition with the offsets from BEGIN to END."""

    def __init__(self, offset: int = BEGIN, records: Mapping[TopicPartition, Sequence[Any]] | None = None) -> None:
        self.offset = offset
        self.records = records or {}
        self.assigned = {PARTITION}
        self.topics = {TOPIC}
        self.lookups = 0

    async def getmany(self, **_: object) -> Mapping[TopicPartition, Sequence[Any]]:
        return self.records

    def assignment(self) -> set[TopicPartition]:
        return self.assigned

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {0} if topic in self.topics else None

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self.lookups += 1
        return dict.fromkeys(partitions, BEGIN)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, END)

    async def position(self, _: TopicPartition) -> int:
        return self.offset

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.offset = offset

    def last_stable_offset(self, _: TopicPartition) -> int:
        return END

    async def stop(self) -> None: ...


def stored(position: int) -> Database:
    """Return a database with the partition's position."""
    return Database(positions=[{"partition": 0, "position": position}])


def reading(client: Client, database: Database, known: int | None = None) -> Reader:
    """Return a reader with this client, which knows the partition's position or not."""
    pool: Any = database
    reader = Reader(SETTINGS, pool)
    reader._consumer = client
    reader._known = {} if known is None else {PARTITION: known}
    return reader


async def read_batch(reader: Reader, client: Client) -> None:
    consumer: Any = client
    await reader._read_batch(consumer)


@pytest.mark.parametrize("position", [BEGIN - 1, BEGIN, 7, END, END + 1])
async def test_only_a_position_that_the_topic_lacks_is_reset(position: int) -> None:
    client, database = Client(), stored(position)
    reader = reading(client, database)
    with capture_logs() as logs:
        await read_batch(reader, client)
    if BEGIN <= position <= END:
        assert (client.offset, reader._known, logs) == (position, {PARTITION: position}, [])
        assert database.arguments("move_positions") == []
    else:
        assert database.arguments("move_positions")[0] == (TOPIC, [0], (position,), (BEGIN,))
        assert logs[0]["event"] == "position.reset"


async def test_records_fetched_before_the_stored_position_was_known_are_dropped() -> None:
    client, database = Client(8, {PARTITION: [SimpleNamespace(offset=8)]}), stored(6)
    reader = reading(client, database)
    await read_batch(reader, client)
    assert (client.offset, reader._known) == (6, {PARTITION: 6})
    assert database.arguments("move_positions") == []


async def test_partition_that_went_while_its_position_was_read_is_not_resumed() -> None:
    client, database = Client(), stored(7)
    client.assigned = set()
    reader = reading(client, database)
    await reader._resume(client, [PARTITION])
    assert (client.offset, reader._known) == (BEGIN, {})


async def test_reader_without_news_asks_neither_broker_nor_database() -> None:
    client, database = Client(7), stored(7)
    await read_batch(reading(client, database, known=7), client)
    assert (client.lookups, database.transactions) == (0, 0)


async def test_position_of_a_partition_that_went_meanwhile_is_not_committed() -> None:
    client, database = Client(7), stored(5)
    reader = reading(client, database, known=5)

    async def position(_: TopicPartition) -> int:
        reader.on_partitions_revoked([PARTITION])
        return client.offset

    client.position = position  # type: ignore[method-assign]
    await read_batch(reader, client)
    assert database.transactions == 0


async def test_position_of_a_deleted_topic_is_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def position(_: TopicPartition) -> int:
        return await asyncio.Event().wait()

    monkeypatch.setattr(module, "POSITION_SECONDS", 0.01)
    consumer: Any = SimpleNamespace(position=position)
    asking = asyncio.create_task(module._position(consumer, PARTITION))
    await asyncio.wait([asking], timeout=1)
    assert isinstance(asking.exception(), TimeoutError)


async def test_only_the_topic_and_its_watermarks_are_subscribed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns: list[str] = []

    class Subscribing(Client):
        def __init__(self, **_: object) -> None:
            super().__init__()

        async def start(self) -> None: ...

        def subscribe(self, *, pattern: str, **_: object) -> None:
            patterns.append(pattern)

    monkeypatch.setattr(module, "AIOKafkaConsumer", Subscribing)
    await reading(Client(), Database())._open()
    names = [TOPIC, f"{TOPIC}.watermarks", f"{TOPIC}.watermarks.old", f"{TOPIC}.old", "orders-v1", f"{TOPIC}\n"]
    assert [name for name in names if re.compile(patterns[0]).match(name)] == names[:2], "as the library matches"


@pytest.mark.parametrize(
    ("value", "kept"),
    [(json.dumps(BODY), 1), (json.dumps({**BODY, "topic": "others.v1"}), 0), ("{", 0)],
    ids=["of the topic", "of another topic", "unreadable"],
)
async def test_only_a_readable_watermark_of_the_topic_is_announced(value: str, kept: int) -> None:
    database = Database(move_positions=["one row"])
    record: Any = SimpleNamespace(topic=WATERMARKS.topic, headers=HEADERS, value=value.encode(), offset=1)
    reader = reading(Client(), database)
    await reader._commit({WATERMARKS: [record]}, {WATERMARKS: (1, 2)})
    assert len(reader.announced[TOPIC]) == kept
    assert database.arguments("insert_dead_letter") == []


async def test_positions_are_stored_by_topic() -> None:
    database = Database(positions=[{"partition": 0, "position": 7}, {"partition": 5, "position": 6}])
    client = Client()
    client.assigned = {PARTITION, WATERMARKS}
    reader = reading(client, database)
    await reader._resume(client, [PARTITION, WATERMARKS])
    begun = [rows for (rows,) in database.arguments("begin_partitions")]
    assert sorted(begun) == [[(TOPIC, 0, BEGIN)], [(WATERMARKS.topic, 5, BEGIN)]]
    assert reader._known == {PARTITION: 7, WATERMARKS: 6}


async def test_lag_is_that_of_the_topic_and_not_of_its_watermarks() -> None:
    client = Client(7)
    client.assigned = {PARTITION, WATERMARKS}
    reader = reading(client, Database(), known=7)
    reader._known[WATERMARKS] = 7
    await read_batch(reader, client)
    lags = [REGISTRY.get_sample_value("consumer_lag_records", {"partition": str(number)}) for number in (0, 5)]
    assert lags == [END - 7, None]


async def test_lag_is_measured_although_nothing_can_be_stored() -> None:
    class Full(Database):
        def transaction(self) -> Any:
            raise Unavailable("the disk is full")

    client = Client(8)
    with pytest.raises(Unavailable):
        await read_batch(reading(client, Full(), known=6), client)
    assert REGISTRY.get_sample_value("consumer_lag_records", {"partition": "0"}) == END - 6


async def test_reader_of_an_absent_topic_is_not_ready() -> None:
    client = Client(7)
    reader = reading(client, stored(7), known=7)
    await reader.read()
    await reader.check()
    client.topics = set()
    await reader.read()
    with pytest.raises(Unavailable, match="is not there"):
        await reader.check()


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
async def test_error_of_the_client_is_reported_whatever_its_stop_does(
    monkeypatch: pytest.MonkeyPatch,
    hangs: bool,
) -> None:
    class Broken(Client):
        async def getmany(self, **_: object) -> Mapping[TopicPartition, Sequence[Any]]:
            raise ConnectionError("away")

        async def stop(self) -> None:
            if hangs:
                await asyncio.Event().wait()
            raise KafkaError

    monkeypatch.setattr(module, "STOP_SECONDS", 0.01)
    reader = reading(Broken(), Database(), known=7)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.read(), 2)
    assert (reader._consumer, reader._known) == (None, {})
    with pytest.raises(Unavailable, match="ConnectionError: away"):
        await reader.check()
