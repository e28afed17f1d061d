"""True events stay after the relay has removed their time; a record is forged only if it came after that. Only Postgres
is used."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from deploy.consumer import intake, store
from deploy.consumer.events import Event
from deploy.consumer.reader import Reader
from deploy.consumer.runtime import Pool
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.verification import verify
from shared.ids import uuid7
from tests.integration.consumer.history import History, item
from tests.integration.consumer.platform import an_order
from tests.integration.consumer.test_bounds import received
from tests.integration.consumer.test_guards import TOPIC, db, pool, record, settings, states
from tests.integration.consumer.test_reader_guards import PARTITION

__all__ = ["db", "pool", "settings"]

NOW = datetime(2026, 11, 27, tzinfo=UTC)
OLD = NOW - timedelta(days=8)


@pytest.fixture
def order(source: random.Random) -> list[Event]:
    """Return an order of eight days ago."""
    return [replace(received(event), occurred_at=OLD) for event in an_order(source, ("placed", "paid", "refunded"))]


async def removed(pool: Pool, before: datetime) -> None:
    """Store that the relay has removed what is older, and that every record up to then was read."""
    async with pool.connection() as db:
        await store.keep_watermark(db, TOPIC, NOW, before, {"0": 0}, None)
        await store.set_removed_before(db, TOPIC, before)


async def read(reader: Reader, events: Sequence[Event], offset: int) -> None:
    """Have the reader take the events' records, from this offset on."""
    reader._known = {PARTITION: offset}
    records = [record(event, offset + number) for number, event in enumerate(events)]
    await reader._commit({PARTITION: records}, {PARTITION: (offset, offset + len(records))})


@pytest.fixture
async def reader(settings: ConsumerSettings, pool: Pool, db: asyncpg.Connection) -> Reader:
    await store.begin_partitions(db, TOPIC, {0: 0})
    return Reader(settings, pool)


async def status(db: asyncpg.Connection) -> str | None:
    found: str | None = await db.fetchval("SELECT status FROM platform.orders")
    return found


async def forged(db: asyncpg.Connection) -> list[int]:
    """Return the offsets of the records that were named as forged."""
    return [row["record_offset"] for row in await db.fetch("SELECT record_offset FROM platform.forged ORDER BY 1")]


CONTRADICTIONS: dict[str, Callable[[Event], dict[str, Any]]] = {
    "another id": lambda _: {"event_id": uuid7()},
    "another value": lambda event: {"payload": event.payload + b" "},
    "another place": lambda _: {"sequence": 7},
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
@pytest.mark.parametrize("at", [OLD, NOW], ids=["of the old time", "of now"])
async def test_old_true_event_stays_and_a_record_that_contradicts_it_is_forged(
    reader: Reader,
    pool: Pool,
    db: asyncpg.Connection,
    order: list[Event],
    change: Callable[[Event], dict[str, Any]],
    at: datetime,
) -> None:
    await removed(pool, OLD - timedelta(days=1))
    await read(reader, order, 0)
    await removed(pool, NOW - timedelta(days=7))
    await read(reader, [replace(order[1], occurred_at=at, **change(order[1]))], 3)
    ((order_id, doubted_at, _),) = await store.orders_to_ask_for(db, 0, 9)
    with capture_logs() as logs:
        await verify(pool, {TOPIC: Remembering()}, [TOPIC], order_id, doubted_at)
    assert (await states(db), await status(db)) == (["APPLIED"] * 3, "REFUNDED")
    assert await forged(db) == [3]
    assert [line["event"] for line in logs] == ["event.forged", "event.unprovable"]
    assert await db.fetchval("SELECT count(*) FROM platform.dead_letters WHERE resolved_at IS NULL") == 0


class Remembering(History):
    """Has removed the events of more than seven days ago."""

    async def keeps(self, timestamp: datetime) -> bool:
        """Return whether the time is of the last seven days."""
        return timestamp >= NOW - timedelta(days=7)


async def test_record_of_a_removed_time_is_forged_if_it_came_after_the_removal(
    reader: Reader, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    await removed(pool, NOW - timedelta(days=7))
    await read(reader, order[:1], 0)
    await verify(pool, {TOPIC: Remembering()}, [TOPIC], order[0].order_id)
    assert (await states(db), await forged(db)) == ([], [0])


async def test_old_events_of_an_order_stay_when_its_late_refund_is_published(
    reader: Reader, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    placed, paid, refunded = order
    await read(reader, [placed, paid], 0)
    await removed(pool, NOW - timedelta(days=7))
    await read(reader, [refunded], 2)
    await verify(pool, {TOPIC: Remembering([item(refunded)])}, [TOPIC], placed.order_id)
    assert (await states(db), await status(db)) == (["APPLIED"] * 3, "REFUNDED")
    await verify(pool, {TOPIC: Remembering()}, [TOPIC], placed.order_id)
    assert await states(db) == ["APPLIED"] * 3, "the relay has shown it before it removed it"


async def test_old_events_of_an_order_stay_when_a_gap_is_filled(
    reader: Reader, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    placed, paid, refunded = order[0], replace(order[1], occurred_at=NOW), replace(order[2], occurred_at=NOW)
    await read(reader, [placed], 0)
    await removed(pool, NOW - timedelta(days=7))
    await read(reader, [refunded], 1)
    await verify(pool, {TOPIC: Remembering([item(paid), item(refunded)])}, [TOPIC], placed.order_id)
    assert (await states(db), await status(db)) == (["APPLIED"] * 3, "REFUNDED")


async def test_old_events_stay_when_a_withdrawn_one_of_their_order_is_retried(
    reader: Reader, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    placed, paid, refunded = order[0], order[1], replace(order[2], occurred_at=NOW)
    await read(reader, [placed, paid, refunded], 0)
    await removed(pool, NOW - timedelta(days=7))
    await verify(pool, {TOPIC: Remembering()}, [TOPIC], placed.order_id)
    assert (await states(db), await status(db), await forged(db)) == (["APPLIED"] * 2, "PAID", [2])
    await store.doubt_forged(db)
    ((order_id, doubted_at, _),) = await store.orders_to_ask_for(db, 0, 9)
    await verify(pool, {TOPIC: Remembering([item(refunded)])}, [TOPIC], order_id, doubted_at)
    assert (await states(db), await status(db), await forged(db)) == (["APPLIED"] * 3, "REFUNDED", [])


async def test_event_of_an_old_dead_letter_is_not_forged(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    await removed(pool, NOW - timedelta(days=7))
    async with pool.transaction() as connection:
        await intake.take(connection, order[:1], "dead letter")
    await verify(pool, {TOPIC: Remembering()}, [TOPIC], order[0].order_id)
    assert await states(db) == ["APPLIED"]
