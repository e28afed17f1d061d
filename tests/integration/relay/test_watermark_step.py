"""One step of the watermark in SQL: the time up to which no transaction that may have written before it is open."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime

import asyncpg
import pytest

from services.relay.completeness import store as history_store
from services.relay.completeness.store import WatermarkAdvance
from shared.ids import uuid7
from tests.infrastructure.pipeline import Event, Pipeline, order_in, write
from tests.infrastructure.waiting import eventually

LEASE_SECONDS = 60.0


@pytest.fixture
async def relay_role(pipeline: Pipeline) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pipeline.url)
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    yield connection
    await connection.close()


async def step(connection: asyncpg.Connection, holder: str = "one") -> WatermarkAdvance:
    reached = await history_store.advance_watermark(connection, holder, LEASE_SECONDS, 3)
    assert reached is not None
    return reached


async def up_to(connection: asyncpg.Connection) -> datetime | None:
    return (await step(connection)).up_to


async def sent(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "UPDATE orders.outbox SET status = 'SENT', sent_at = clock_timestamp() WHERE status = 'PENDING'"
    )


async def test_event_gets_its_time_after_its_transaction_id(pipeline: Pipeline, writer: asyncpg.Connection) -> None:
    async with writer.transaction():
        began = await writer.fetchval("SELECT now()")
        before = await pipeline.connection.fetchval("SELECT clock_timestamp()")
        assert await writer.fetchval("SELECT pg_current_xact_id_if_assigned()") is None
        outbox_id = await Event(uuid7(), 1).insert(writer)
    occurred_at = await writer.fetchval("SELECT occurred_at FROM orders.outbox WHERE outbox_id = $1", outbox_id)
    assert began < before < occurred_at
    default = await writer.fetchval("""
        SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
        WHERE adrelid = 'orders.outbox'::regclass AND attname = 'occurred_at'
    """)
    assert default.index("pg_current_xact_id()") < default.index("clock_timestamp()")


async def test_watermark_waits_for_a_transaction_that_may_have_written_before_it(
    pipeline: Pipeline, relay_role: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    assert await up_to(relay_role) is None, "the first step only marks"
    first = await up_to(relay_role)
    transaction = writer.transaction()
    await transaction.start()
    outbox_id = await Event(uuid7(), 1).insert(writer)
    occurred_at = await writer.fetchval("SELECT occurred_at FROM orders.outbox WHERE outbox_id = $1", outbox_id)
    # A mark before the transaction may still be closed; a mark after it may not, even after many tries.
    reached = [await up_to(relay_role) for _ in range(4)]
    assert first is not None
    assert max(filter(None, reached)) < occurred_at
    await transaction.commit()
    assert [await up_to(relay_role) for _ in range(3)] == [reached[-1]] * 3, "it is pending now"
    await sent(pipeline.connection)
    last = await up_to(relay_role), await up_to(relay_role)
    assert last[1] is not None
    assert last[1] > occurred_at


async def test_running_transaction_with_a_higher_id_also_holds_the_watermark(
    relay_role: asyncpg.Connection, writer: asyncpg.Connection, pipeline: Pipeline
) -> None:
    """Its id is above the snapshot's xmax, so a comparison with xmax would miss it."""
    other = pipeline.connection
    await up_to(relay_role)
    low, high = writer.transaction(), other.transaction()
    await low.start()
    await Event(uuid7(), 1).insert(writer)
    await high.start()
    outbox_id = await Event(uuid7(), 1).insert(other)
    occurred_at = await other.fetchval("SELECT occurred_at FROM orders.outbox WHERE outbox_id = $1", outbox_id)
    await up_to(relay_role)
    await up_to(relay_role)
    await low.rollback()
    reached = [await up_to(relay_role) for _ in range(3)]
    assert all(timestamp is None or timestamp < occurred_at for timestamp in reached)
    await high.rollback()
    assert (await up_to(relay_role), await up_to(relay_role))[1] > occurred_at


async def test_parked_events_do_not_hold_the_watermark_and_are_listed_up_to_a_limit(
    pipeline: Pipeline, relay_role: asyncpg.Connection
) -> None:
    orders = sorted([order_in(0) for _ in range(5)])
    await write(pipeline.connection, [Event(order, 1) for order in orders])
    await pipeline.connection.execute(
        "UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = 'x'"
    )
    await step(relay_role)
    reached = await step(relay_role)
    assert reached.up_to is not None
    assert reached.missing_count == 5
    assert reached.missing == [{"order_id": str(order), "sequence": 1} for order in orders[:3]]
    await pipeline.connection.execute(
        "UPDATE orders.outbox SET status = 'PENDING', parked_at = NULL, parked_reason = NULL"
    )
    assert (await step(relay_role)).up_to == reached.up_to, "retried: it blocks the watermark like any pending event"
    await sent(pipeline.connection)
    reached = await step(relay_role)
    assert (reached.missing, reached.missing_count) == ([], 0)


async def test_leader_keeps_leadership_until_release_or_lease_expiry(
    pipeline: Pipeline, relay_role: asyncpg.Connection
) -> None:
    first = await step(relay_role, "one")
    assert await history_store.advance_watermark(relay_role, "two", LEASE_SECONDS, 3) is None
    await history_store.release_watermark(relay_role, "two")
    assert await history_store.advance_watermark(relay_role, "two", LEASE_SECONDS, 3) is None, "not the leader"
    await history_store.release_watermark(relay_role, "one")
    second = await step(relay_role, "two")
    await pipeline.connection.execute("UPDATE relay.watermark SET lease_expires_at = now() - interval '1 second'")
    third = await step(relay_role, "one")
    assert (first.epoch, second.epoch, third.epoch) == (1, 2, 3)


async def test_new_leader_marks_again_because_ids_of_another_database_differ(
    pipeline: Pipeline, relay_role: asyncpg.Connection
) -> None:
    await step(relay_role, "one")
    await pipeline.connection.execute("UPDATE relay.watermark SET mark_xid = '1', lease_expires_at = '-infinity'")
    assert (await step(relay_role, "two")).up_to is None
    assert await pipeline.connection.fetchval("SELECT mark_xid::text::bigint > 1 FROM relay.watermark")


async def test_watermark_does_not_go_back_with_the_clock(pipeline: Pipeline, relay_role: asyncpg.Connection) -> None:
    await step(relay_role)
    await pipeline.connection.execute("UPDATE relay.watermark SET up_to = now() + interval '1 hour'")
    ahead = await pipeline.connection.fetchval("SELECT up_to FROM relay.watermark")
    assert [await up_to(relay_role) for _ in range(3)] == [ahead] * 3


async def test_watermark_cannot_advance_in_a_transaction_that_has_an_id(relay_role: asyncpg.Connection) -> None:
    async with relay_role.transaction():
        await relay_role.execute("SELECT pg_current_xact_id()")
        with pytest.raises(asyncpg.RaiseError):
            await step(relay_role)


async def test_two_concurrent_advances_mark_one_time(
    pipeline: Pipeline, relay_role: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    """The second call read the row before the first one changed it."""
    await step(relay_role)
    async with writer.transaction():
        await writer.execute("UPDATE relay.watermark SET epoch = epoch + 1")
        overtaken = asyncio.create_task(history_store.advance_watermark(relay_role, "one", LEASE_SECONDS, 3))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await eventually(lambda: pipeline.connection.fetchval(waits), 10, "a call that waits")
    assert await overtaken is None


async def test_watermark_continues_after_a_restore_into_a_cluster_with_lower_ids(
    pipeline: Pipeline, relay_role: asyncpg.Connection
) -> None:
    """The leader has the same name as before the dump, as a replica with a fixed RELAY_REPLICA has."""
    await step(relay_role)
    before = await up_to(relay_role)
    await pipeline.connection.execute("UPDATE relay.watermark SET mark_xid = '4294967296000'")
    await step(relay_role)
    after = await up_to(relay_role)
    assert before is not None
    assert after is not None
    assert after > before
