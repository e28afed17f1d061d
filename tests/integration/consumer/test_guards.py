"""The reference consumer's guards, call by call: an overtaken process or a repeated event changes nothing. Only
Postgres is used."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiokafka.structs import ConsumerRecord
from structlog.testing import capture_logs

from deploy.consumer import intake, store
from deploy.consumer.__main__ import Leader
from deploy.consumer.events import Event
from deploy.consumer.intake import Taken
from deploy.consumer.runtime import Pool, repeat
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.store import migrate
from deploy.consumer.verification import verify
from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.infrastructure.locks import waits
from tests.integration.consumer.history import History, item
from tests.integration.consumer.platform import OrderEvent, an_order, migrated
from tests.integration.consumer.test_bounds import received

TOPIC = "orders.v1"
MINUTE = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
LONG = 3600.0


@pytest.fixture
async def settings(platform_database: Database) -> ConsumerSettings:
    return await migrated(platform_database)


@pytest.fixture
async def pool(settings: ConsumerSettings) -> AsyncIterator[Pool]:
    async with Pool(settings) as pool:
        yield pool


@pytest.fixture
async def db(settings: ConsumerSettings) -> AsyncIterator[asyncpg.Connection]:
    """Return a session besides the pool's; the tables are empty."""
    connection = await asyncpg.connect(settings.database_url)
    names = "offsets, streams, orders, inbox, sales, buckets, dead_letters, forged, watermarks, duties, restores"
    await connection.execute(f"TRUNCATE {', '.join(f'platform.{name}' for name in names.split(', '))}")
    yield connection
    await connection.close()


@pytest.fixture
def order(source: random.Random) -> list[Event]:
    return [received(event) for event in an_order(source, ("placed", "paid", "refunded"))]


async def take(pool: Pool, events: Iterable[Event], given_up: Mapping[UUID, list[int]] | None = None) -> Taken:
    async with pool.transaction() as connection:
        return await intake.take(connection, list(events), "topic", given_up)


async def states(db: asyncpg.Connection) -> list[str]:
    rows = await db.fetch("SELECT state FROM platform.inbox ORDER BY sequence")
    return [row["state"] for row in rows]


@asynccontextmanager
async def holding(db: asyncpg.Connection, lock: str, *arguments: object) -> AsyncIterator[None]:
    async with db.transaction():
        await db.execute(lock, *arguments)
        await db.execute("SET LOCAL lock_timeout = '500ms'")
        yield


@pytest.mark.usefixtures("db")
async def test_event_that_comes_twice_counts_once(pool: Pool, order: list[Event]) -> None:
    placed = order[0]
    assert (await take(pool, [placed, placed])).duplicates == 1
    again = await take(pool, [placed])
    assert (again.new, again.duplicates) == (0, 1)


@pytest.mark.usefixtures("db")
async def test_other_event_at_the_same_place_contradicts(pool: Pool, order: list[Event]) -> None:
    placed = order[0]
    others = [received(OrderEvent(placed.order_id, placed.sequence, "placed", "ann", 1)) for _ in range(2)]
    assert (await take(pool, [placed, others[0]])).contradicting == [others[0]]
    assert (await take(pool, [others[1]])).contradicting == [others[1]]


async def test_event_taken_by_two_concurrent_processes_counts_once(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    async with pool.transaction() as first:
        assert (await intake.take(first, order[:1], "topic")).new == 1
        second = await waits(db, take(pool, order[:1]))
    assert (await second).duplicates == 1


async def test_event_waits_for_those_before_it(pool: Pool, db: asyncpg.Connection, order: list[Event]) -> None:
    placed, paid, refunded = order
    await take(pool, [refunded, paid])
    since = await db.fetchval("SELECT waiting_since FROM platform.streams")
    assert await states(db) == ["WAITING", "WAITING"]
    await take(pool, [refunded])
    assert await db.fetchval("SELECT waiting_since FROM platform.streams") == since, "since the first that waited"
    await take(pool, [placed])
    assert await states(db) == ["APPLIED", "APPLIED", "APPLIED"]
    assert await db.fetchval("SELECT waiting_since FROM platform.streams") is None


async def test_event_believed_to_be_lost_is_kept_and_changes_nothing(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    placed, paid, refunded = order
    await take(pool, [paid], {paid.order_id: [1]})
    sales = await db.fetchrow("SELECT * FROM platform.sales")
    with capture_logs() as logs:
        await take(pool, [placed])
        assert await states(db) == ["LATE", "APPLIED"]
        assert await db.fetchrow("SELECT * FROM platform.sales") == sales
        await take(pool, [refunded])
    assert [entry["event"] for entry in logs] == ["late_events.kept"]


async def test_streams_are_begun_in_order_of_id(pool: Pool, db: asyncpg.Connection) -> None:
    first, last = sorted([uuid7(), uuid7()])
    insert = "INSERT INTO platform.streams (order_id) VALUES ($1)"
    async with pool.transaction() as connection:
        async with holding(db, insert, first):
            locking = await waits(db, store.lock_streams(connection, [last, first]))
            await db.execute(insert, last)
        assert set((await locking)[0]) == {first, last}


async def test_streams_are_locked_in_order_of_id(pool: Pool, db: asyncpg.Connection) -> None:
    first, last = sorted([uuid7(), uuid7()])
    for order_id in (last, first):
        await store.lock_streams(db, [order_id])
    lock = "SELECT FROM platform.streams WHERE order_id = $1 FOR UPDATE"
    async with pool.transaction() as connection:
        await connection.execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off")
        async with holding(db, lock, first):
            locking = await waits(db, store.lock_streams(connection, [last, first]))
            await db.execute(lock, last)
        assert set((await locking)[0]) == {first, last}


async def test_streams_of_a_batch_are_locked_against_other_processes(pool: Pool, db: asyncpg.Connection) -> None:
    order_id = uuid7()
    await store.lock_streams(db, [order_id])
    async with pool.transaction() as connection:
        async with holding(db, "SELECT FROM platform.streams WHERE order_id = $1 FOR UPDATE", order_id):
            locking = await waits(db, store.lock_streams(connection, [order_id]))
        await locking


async def test_partition_that_was_begun_is_not_begun_again(db: asyncpg.Connection) -> None:
    await store.begin_partitions(db, TOPIC, {0: 5})
    await store.begin_partitions(db, TOPIC, {0: 0, 1: 7})
    assert await store.positions(db, TOPIC) == {0: 5, 1: 7}


async def test_position_moves_only_from_where_it_is_expected(db: asyncpg.Connection) -> None:
    await store.begin_partitions(db, TOPIC, {0: 5, 1: 5})
    assert not await store.move_positions(db, TOPIC, {0: (4, 9), 1: (5, 9)})
    assert (await store.positions(db, TOPIC))[0] == 5
    assert await store.move_positions(db, TOPIC, {0: (5, 6)})


def record(event: Event, offset: int) -> ConsumerRecord[Any, Any]:
    headers = {
        "ce_specversion": b"1.0",
        "ce_id": str(event.event_id).encode(),
        "ce_type": event.type.encode(),
        "ce_time": event.occurred_at.isoformat().encode(),
        "ce_subject": str(event.order_id).encode(),
        "ce_sequence": str(event.sequence).encode(),
    }
    key = str(event.order_id).encode()
    return ConsumerRecord(TOPIC, 0, offset, 0, 0, key, event.payload, None, 0, 0, tuple(headers.items()))


async def test_process_that_migrates_waits_for_another_one(settings: ConsumerSettings, db: asyncpg.Connection) -> None:
    async with db.transaction():
        await db.execute("LOCK TABLE platform.migrations IN SHARE ROW EXCLUSIVE MODE")
        migrating = await waits(db, migrate(settings))
    assert await migrating == []


async def test_paused_process_is_cut_off_from_its_transaction(pool: Pool) -> None:
    async with pool.transaction() as connection:
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "3s"


async def test_dead_letter_is_kept_once_and_resolved_once(db: asyncpg.Connection, order: list[Event]) -> None:
    known = record(order[0], 7)
    letter = replace(known, headers=(*known.headers, ("x", None), ("y", b"\xff")))
    for _ in range(2):
        await store.insert_dead_letters(db, [(letter, "a test")])
    await store.resolve_dead_letters(db, order[:1])
    resolved = "SELECT resolved_at FROM platform.dead_letters"
    first = await db.fetchval(resolved)
    assert first is not None
    await store.resolve_dead_letters(db, order[:1])
    assert await db.fetchval(resolved) == first


async def test_gap_is_asked_for_again_only_after_a_while(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    await take(pool, [order[2]])
    order_id = order[2].order_id
    assert list(map(tuple, await store.orders_to_ask_for(db, LONG, 9))) == [(order_id, None, [TOPIC])]
    assert await store.orders_to_ask_for(db, LONG, 9) == []
    assert list(map(tuple, await store.orders_to_ask_for(db, 0, 9))) == [(order_id, None, [TOPIC])]
    async with holding(db, "SELECT FROM platform.streams FOR UPDATE"), pool.connection() as other:
        assert await asyncio.wait_for(store.orders_to_ask_for(other, 0, 9), 2) == [], "another process asks"
    await take(pool, order[:2])
    assert await store.orders_to_ask_for(db, 0, 9) == [], "nothing waits any more"


async def test_events_that_will_never_come_are_given_up(pool: Pool, db: asyncpg.Connection, order: list[Event]) -> None:
    placed, paid, refunded = order
    await take(pool, [refunded])
    skipped, published = item(paid, "SKIPPED"), item(refunded)
    history = History([item(placed, "PENDING"), skipped, published])
    await verify(pool, {TOPIC: history}, [TOPIC], placed.order_id)
    assert await states(db) == ["WAITING"], "the first one may still come"
    await verify(pool, {TOPIC: History([skipped, published])}, [TOPIC], placed.order_id)
    assert await states(db) == ["APPLIED"]


@pytest.mark.usefixtures("db")
async def test_watermark_of_the_relay_replaces_a_later_one(pool: Pool) -> None:
    missing = [{"order_id": str(uuid7()), "sequence": 1}]
    async with pool.connection() as connection:
        announced = {"missing": missing, "missing_count": 1}
        await store.keep_watermark(connection, TOPIC, MINUTE + timedelta(days=9999), None, {"0": 2**62}, announced)
        await store.keep_watermark(connection, TOPIC, MINUTE, MINUTE, {"0": 1}, None)
        row = await store.watermark(connection, TOPIC)
    assert (row["up_to"], row["oldest"], row["partitions"]) == (MINUTE, MINUTE, {"0": 1})
    assert (row["missing"], row["missing_count"]) == (missing, 1)


async def test_minute_with_a_new_event_is_compared_immediately_and_others_later(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    shard, later = order[0].shard, MINUTE + timedelta(minutes=1)
    async with pool.connection() as connection:
        await store.put_bucket(connection, TOPIC, MINUTE, shard, "EQUAL", [])
        await store.put_bucket(connection, TOPIC, later, shard, "DIFFERS", [])
        assert await store.buckets_to_compare(connection, TOPIC, LONG, 9) == []
        await take(pool, order[:1])
        again = await store.buckets_to_compare(connection, TOPIC, LONG, 9)
        assert [(row["bucket"], row["state"]) for row in again] == [(MINUTE, "STALE")]
        await db.execute(
            "UPDATE platform.buckets SET compared_at = compared_at - interval '1 hour' WHERE bucket = $1", later
        )
        longest_ago = await store.buckets_to_compare(connection, TOPIC, 60, 9)
        assert [row["bucket"] for row in longest_ago] == [later, MINUTE]


async def test_leader_leads_until_it_leaves_or_its_lease_has_expired(db: asyncpg.Connection) -> None:
    assert await store.take_leadership(db, "gaps", "one", 60)
    assert not await store.take_leadership(db, "gaps", "two", 60)
    assert await store.take_leadership(db, "gaps", "one", 60)
    await store.leave_leadership(db, "two")
    assert not await store.take_leadership(db, "gaps", "two", 60)
    await db.execute("UPDATE platform.duties SET lease_until = '-infinity'")
    assert await store.take_leadership(db, "gaps", "two", 60)


async def test_only_the_leader_works_and_it_leaves_at_the_end(pool: Pool, db: asyncpg.Connection) -> None:
    stop, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        done.set()
        stop.set()

    await store.take_leadership(db, "gaps", "other", 60)
    leader = Leader(pool)
    repeating = asyncio.create_task(repeat("gaps", 0.01, lambda: leader.run("gaps", work), stop))
    await asyncio.wait([asyncio.create_task(done.wait())], timeout=0.2)
    assert not done.is_set()
    await db.execute("UPDATE platform.duties SET lease_until = '-infinity'")
    await asyncio.wait_for(repeating, 2)
    await leader.leave()
    assert await db.fetchval("SELECT count(*) FROM platform.duties") == 0


async def test_waiting_events_are_never_pruned_and_others_once_old(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    placed, _, refunded = order
    await take(pool, [placed, refunded])
    async with pool.connection() as connection:
        await store.put_bucket(connection, TOPIC, MINUTE, 0, "EQUAL", [])
    assert await store.prune(db, 365 * 24 * 3600 * 100.0, 9) == 0
    assert await db.fetchval("SELECT count(*) FROM platform.buckets") == 1
    assert await store.prune(db, LONG, 9) == 1
    assert await states(db) == ["WAITING"]
    assert await db.fetchval("SELECT count(*) FROM platform.buckets") == 0


async def test_withdrawal_of_a_waiting_event_changes_nothing_of_its_order(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    """Its stream is not built again from the beginning: the sequences that were given up are not known any more."""
    waiting = replace(order[2], sequence=9)
    await take(pool, [order[1], waiting], {order[0].order_id: [1]})
    assert await states(db) == ["APPLIED", "WAITING"]
    before = await db.fetch("SELECT * FROM platform.orders")
    async with pool.transaction() as connection:
        assert len(await intake.withdraw(connection, {waiting.event_id: "forged"}, [waiting.order_id])) == 1
    assert await states(db) == ["APPLIED"]
    assert await db.fetchval("SELECT sequence FROM platform.streams") == 2
    assert await db.fetch("SELECT * FROM platform.orders") == before
