"""The guards of the consumer's reader, call by call: it trusts no position that may be another process'. Only Postgres
is used."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition

from deploy.consumer import store
from deploy.consumer.events import Event
from deploy.consumer.reader import Reader
from deploy.consumer.runtime import Pool, Unavailable
from deploy.consumer.settings import ConsumerSettings
from tests.integration.consumer.platform import OrderEvent
from tests.integration.consumer.test_bounds import received
from tests.integration.consumer.test_guards import TOPIC, db, order, pool, record, settings, states

__all__ = ["db", "order", "pool", "settings"]

PARTITION = TopicPartition(TOPIC, 0)


async def reader_at_5(settings: ConsumerSettings, pool: Pool, db: asyncpg.Connection, *, stored: int = 5) -> Reader:
    """Return a reader that takes 5 for its position, while the database has `stored`."""
    await store.begin_partitions(db, TOPIC, {0: stored})
    reader = Reader(settings, pool)
    reader._known = {PARTITION: 5}
    return reader


async def test_batch_of_a_partition_that_another_process_moved_on_is_dropped(
    settings: ConsumerSettings, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    reader = await reader_at_5(settings, pool, db, stored=9)
    await reader._commit({PARTITION: [record(order[0], 5)]}, {PARTITION: (5, 6)})
    assert (await states(db), reader._known) == ([], {})


async def test_position_is_asked_again_after_a_commit_whose_end_is_unknown(
    settings: ConsumerSettings, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    reader = await reader_at_5(settings, pool, db)
    await db.execute("ALTER TABLE platform.inbox RENAME TO away")
    try:
        with pytest.raises(Unavailable):
            await reader._commit({PARTITION: [record(order[0], 5)]}, {PARTITION: (5, 6)})
    finally:
        await db.execute("ALTER TABLE platform.away RENAME TO inbox")
    assert reader._known == {}
    assert await store.positions(db, TOPIC) == {0: 5}, "neither the records nor the position"


async def test_record_that_can_not_be_read_or_contradicts_is_kept_aside(
    settings: ConsumerSettings, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    reader = await reader_at_5(settings, pool, db)
    other = received(OrderEvent(order[0].order_id, 1, "placed", "ann", 1))
    records = [record(order[0], 5), replace(record(order[1], 6), value=b"{"), record(other, 7)]
    await reader._commit({PARTITION: records}, {PARTITION: (5, 8)})
    rows = await db.fetch("SELECT record_offset FROM platform.dead_letters ORDER BY record_offset")
    assert ([row["record_offset"] for row in rows], reader._known) == ([6, 7], {PARTITION: 8})


class Client:
    """Stands in for the client: it has one partition, where it is at an offset, and these records."""

    def __init__(self, offset: int, records: Mapping[TopicPartition, list[Any]] | None = None) -> None:
        self.offset = offset
        self.records = records or {}

    async def getmany(self, **_: object) -> Mapping[TopicPartition, list[Any]]:
        return self.records

    def assignment(self) -> set[TopicPartition]:
        return {PARTITION}

    async def position(self, _: TopicPartition) -> int:
        return self.offset

    def last_stable_offset(self, _: TopicPartition) -> int:
        return self.offset


@pytest.mark.parametrize(
    ("offset", "known"),
    [(4, {}), (5, {PARTITION: 5}), (7, {PARTITION: 7})],
    ids=["back: asked of the database again", "same", "past marks of transactions"],
)
async def test_position_without_records_follows_the_client_forwards_only(
    settings: ConsumerSettings, pool: Pool, db: asyncpg.Connection, offset: int, known: dict[TopicPartition, int]
) -> None:
    reader = await reader_at_5(settings, pool, db)
    client: Any = Client(offset)
    await reader._read_batch(client)
    assert reader._known == known
    assert await store.positions(db, TOPIC) == {0: max(5, offset)}


async def test_records_of_a_partition_that_is_gone_are_left_to_its_next_owner(
    settings: ConsumerSettings, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    gone = TopicPartition(TOPIC, 1)
    await store.begin_partitions(db, TOPIC, {0: 5, 1: 5})
    reader = Reader(settings, pool)
    reader._known = {PARTITION: 5, gone: 5}
    client: Any = Client(6, {PARTITION: [record(order[0], 5)], gone: [record(order[1], 5)]})
    await reader._read_batch(client)
    assert await states(db) == ["APPLIED"]
    assert await store.positions(db, TOPIC) == {0: 6, 1: 5}


async def test_position_of_a_partition_that_went_during_its_commit_is_not_trusted(
    settings: ConsumerSettings, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    await store.begin_partitions(db, TOPIC, {0: 5})
    reader = Reader(settings, pool)
    await reader._commit({PARTITION: [record(order[0], 5)]}, {PARTITION: (5, 6)})
    assert (await states(db), reader._known) == (["APPLIED"], {})


@pytest.mark.parametrize("change", ["on_partitions_revoked", "on_partitions_assigned"])
async def test_no_position_is_trusted_after_partitions_changed_hands(
    settings: ConsumerSettings, pool: Pool, change: str
) -> None:
    reader = Reader(settings, pool)
    reader._known = {PARTITION: 5}
    getattr(reader, change)([])
    assert reader._known == {}
