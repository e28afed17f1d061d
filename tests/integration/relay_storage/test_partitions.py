"""The outbox gets new partitions and loses those that were published long ago, and nothing else."""

import asyncio
import time
from uuid import UUID

import asyncpg
import pytest

from services.order import store as order_store
from services.relay import metrics, store
from services.relay.outbox_cleaner import clean
from tests.infrastructure.pipeline import Event, order_in
from tests.integration.relay_storage.outbox import SHARD, Outbox

HOUR = 3600.0
EDGE = 1 << 40


def event() -> Event:
    """Return an event of a new order."""
    return Event(order_in(SHARD), 1)


async def test_event_has_a_partition_even_if_no_replica_rotates(outbox: Outbox) -> None:
    await outbox.root.execute("SELECT setval('orders.outbox_ids', $1)", EDGE - 2)
    assert await outbox.write(event(), event()) == [EDGE - 1, EDGE]
    assert await outbox.statuses() == [(0, "PENDING"), (1, "PENDING")]


async def test_after_a_rotation_events_go_to_the_next_partition_and_all_are_published(outbox: Outbox) -> None:
    for number in range(3):
        await outbox.write(event())
        assert await outbox.rotate() == number + 1
    await outbox.write(event())
    assert await outbox.publish() == 4
    assert await outbox.statuses() == [(number, "SENT") for number in range(4)]


async def test_rotation_waits_for_its_interval_and_a_partition_with_events(outbox: Outbox) -> None:
    assert await store.rotate_outbox(outbox.relay, 0) == "readied"
    assert await store.rotate_outbox(outbox.relay, 0) is None  # empty
    await outbox.write(event())
    await outbox.rotate()
    await outbox.write(event())
    assert await store.rotate_outbox(outbox.relay, HOUR) == "attached"
    assert await store.rotate_outbox(outbox.relay, HOUR) == "readied"
    assert await store.rotate_outbox(outbox.relay, HOUR) is None  # early
    assert await store.rotate_outbox(outbox.relay, 0) == "rotated"


async def test_partition_is_filled_only_after_older_transactions_have_ended(outbox: Outbox) -> None:
    await outbox.write(event())
    async with outbox.writer() as writer:
        transaction = writer.transaction()
        await transaction.start()
        await event().insert(writer)
        assert await store.rotate_outbox(outbox.relay, 0) == "readied"
        assert await store.rotate_outbox(outbox.relay, 0) is None
        assert await outbox.filled() == 0
        await transaction.commit()
    assert await store.rotate_outbox(outbox.relay, 0) == "rotated"


async def test_steps_of_one_rotation_are_refused_within_one_transaction(outbox: Outbox) -> None:
    await outbox.write(event())
    await outbox.rotate()
    async with outbox.relay.transaction():
        assert await store.rotate_outbox(outbox.relay, 0) == "attached"
        assert await store.rotate_outbox(outbox.relay, 0) is None


async def test_a_rotation_that_was_cut_short_is_brought_to_its_end(outbox: Outbox) -> None:
    await outbox.write(event())
    # The state if the connection breaks between the advance of the sequence, which no rollback undoes, and the
    # commit.
    await outbox.root.execute("SELECT setval('orders.outbox_ids', $1, false)", EDGE)
    await outbox.publish()
    await store.note_published(outbox.relay)
    assert await store.drop_published(outbox.relay, 0) == 0
    await outbox.write(event())
    assert await outbox.rotate() == 2


async def test_a_partition_made_later_is_like_the_first_one(outbox: Outbox) -> None:
    await outbox.write(event())
    await outbox.rotate()
    await outbox.write(event())
    await outbox.rotate()
    rows = await outbox.root.fetch("""
        SELECT c.relname, c.reloptions, (
            SELECT array_agg(regexp_replace(pg_get_indexdef(i.indexrelid), 'INDEX \\S+ ON \\S+', ''))
            FROM pg_index AS i WHERE i.indrelid = c.oid
        ) AS indexes, (
            SELECT array_agg(pg_get_constraintdef(k.oid)) FROM pg_constraint AS k
            WHERE k.conrelid = c.oid AND k.contype IN ('c', 'u', 'p')
        ) AS constraints
        FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid WHERE inhparent = 'orders.outbox'::regclass
        ORDER BY c.relname
    """)
    first, *others = [[sorted(column) for column in tuple(row)[1:]] for row in rows]
    assert len(others) == 2
    assert others == [first] * len(others)


async def test_a_sequence_is_used_once_in_a_partition_made_later(outbox: Outbox) -> None:
    await outbox.write(event())
    await outbox.rotate()
    written = event()
    await outbox.write(written)
    with pytest.raises(asyncpg.UniqueViolationError):
        await outbox.write(Event(written.order_id, written.sequence))


async def test_partition_is_dropped_only_after_the_retention(outbox: Outbox) -> None:
    await outbox.write(event())
    await outbox.rotate()
    await outbox.write(event())
    await outbox.publish()
    await clean(outbox.relay, HOUR, HOUR)
    assert await outbox.statuses() == [(0, "SENT"), (1, "SENT")]
    await outbox.root.execute(
        "UPDATE orders.outbox_partitions SET published_at = published_at - interval '61 minutes' WHERE partition = 0"
    )
    await clean(outbox.relay, HOUR, HOUR)
    assert await outbox.statuses() == [(1, "SENT")]
    assert await outbox.partitions() == [1, 2]


@pytest.mark.parametrize("status", ["PENDING", "PARKED"])
async def test_unpublished_events_stay_while_younger_partitions_are_dropped(outbox: Outbox, status: str) -> None:
    kept = event()
    await outbox.write(kept)
    if status == "PARKED":
        await outbox.root.execute("UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = 'x'")
    await outbox.root.execute("UPDATE orders.outbox SET occurred_at = now() - interval '10 years'")
    await outbox.rotate()
    young = event()
    await outbox.write(young)
    await outbox.root.execute("UPDATE orders.outbox SET status = 'SENT', sent_at = now() WHERE outbox_id >= $1", EDGE)
    await outbox.rotate()
    await clean(outbox.relay, 0, 0)
    assert (await outbox.partitions())[:2] == [0, 2]
    assert await outbox.statuses() == [(0, status)]
    assert metrics.PARTITIONS_KEPT._value.get() == 1
    # Once its last event is published or skipped, the partition is dropped too.
    over = "status = 'SENT', sent_at = now()" if status == "PENDING" else "status = 'SKIPPED'"
    await outbox.root.execute(f"UPDATE orders.outbox SET {over}, parked_at = NULL, parked_reason = NULL")
    await clean(outbox.relay, 0, 0)
    assert 0 not in await outbox.partitions()
    assert metrics.PARTITIONS_KEPT._value.get() == 0


async def test_a_partition_is_kept_while_a_transaction_may_still_write_to_it(outbox: Outbox) -> None:
    late = event()
    await outbox.write(event())
    assert await store.rotate_outbox(outbox.relay, 0) == "readied"
    async with outbox.writer() as writer:
        transaction = writer.transaction()
        await transaction.start()
        await late.insert(writer)
        assert await store.rotate_outbox(outbox.relay, 0) == "rotated"
        await outbox.publish()
        await clean(outbox.relay, HOUR, 0)
        await transaction.commit()
    assert await outbox.statuses() == [(0, "SENT"), (0, "PENDING")]
    await clean(outbox.relay, HOUR, 0)
    assert await outbox.publish() == 1
    await clean(outbox.relay, HOUR, 0)
    assert await outbox.statuses() == []


@pytest.mark.parametrize(
    "open_with", ["SELECT FROM orders.outbox LIMIT 1", "LOCK TABLE orders.outbox IN ROW EXCLUSIVE MODE"]
)
async def test_drop_waits_for_no_session_and_blocks_none(outbox: Outbox, open_with: str) -> None:
    await outbox.write(event())
    await outbox.rotate()
    await outbox.publish()
    await store.note_published(outbox.relay)
    async with outbox.writer() as busy:
        transaction = busy.transaction()
        await transaction.start()
        await busy.execute(open_with)
        began = time.monotonic()
        drop = asyncio.create_task(store.drop_published(outbox.relay, 0))
        written = 0
        while not drop.done():
            await outbox.write(event())
            written += 1
        with pytest.raises(asyncpg.LockNotAvailableError):
            await drop
        await clean(outbox.relay, HOUR, 0)  # puts it off
        assert time.monotonic() - began < 2
        assert written
        await transaction.rollback()
    assert await store.drop_published(outbox.relay, 0) == 0
    assert await outbox.publish() == written


async def test_one_replica_cleans_for_all_until_it_is_dead(outbox: Outbox) -> None:
    assert await store.hold_leadership(outbox.relay, 60, leadership="clean", holder="one")
    assert not await store.hold_leadership(outbox.relay, 60, leadership="clean", holder="two")
    assert await store.hold_leadership(outbox.relay, 0, leadership="clean", holder="one")
    assert await store.hold_leadership(outbox.relay, 60, leadership="clean", holder="two")


async def test_the_record_of_partitions_does_not_grow(outbox: Outbox) -> None:
    for _ in range(5):
        await outbox.write(event())
        await outbox.rotate()
        await outbox.publish()
        await clean(outbox.relay, HOUR, 0)
    # The last dropped partition, the current one, and the next one.
    rows = await outbox.root.fetch("SELECT partition, dropped_at FROM orders.outbox_partitions ORDER BY partition")
    assert [(row["partition"], row["dropped_at"] is not None) for row in rows] == [(4, True), (5, False), (6, False)]


async def test_only_orders_older_than_the_dropped_partitions_may_lack_events(outbox: Outbox) -> None:
    async def placed() -> Event:
        written = event()
        await outbox.order.execute(
            "INSERT INTO orders.orders (order_id, user_id, status, lines, currency) "
            "VALUES ($1, 'u', 'PLACING', '[]', 'KRW')",
            written.order_id,
        )
        await outbox.write(written)
        return written

    async def forgotten(written: Event) -> bool:
        rows = await outbox.order.fetch(order_store.SQL["list_orders_to_audit"], UUID(int=written.order_id.int - 1), 1)
        assert [row["order_id"] for row in rows] == [written.order_id]
        return bool(rows[0]["forgotten"])

    old = await placed()
    await outbox.rotate()
    young = await placed()
    await outbox.publish()
    assert not await forgotten(old)
    await clean(outbox.relay, HOUR, 0)
    assert await outbox.statuses() == [(1, "SENT")]
    assert (await forgotten(old), await forgotten(young)) == (True, False)


async def test_the_relay_may_not_drop_or_attach_anything_by_itself(outbox: Outbox) -> None:
    for forbidden in (
        "DROP TABLE orders.outbox_0",
        "SELECT orders.attach_partition(7)",
        "SELECT setval('orders.outbox_ids', 1)",
        "DELETE FROM orders.outbox_partitions",
        "SELECT FROM orders.outbox_0",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await outbox.relay.execute(forbidden)


async def test_relay_and_order_service_report_the_age_of_the_oldest_event(outbox: Outbox) -> None:
    async def ages() -> tuple[float, float]:
        (backlog,) = [shard for shard in await store.backlog(outbox.relay, 10) if shard.shard == SHARD]
        return backlog.oldest_seconds, await outbox.order.fetchval("SELECT orders.oldest_unpublished_seconds()")

    assert await ages() == (0, 0)
    await outbox.write(event(), event())
    await outbox.root.execute("UPDATE orders.outbox SET occurred_at = now() - interval '1 hour' WHERE outbox_id = 1")
    await outbox.rotate()
    await outbox.write(event())
    assert all(HOUR <= seconds < HOUR + 60 for seconds in await ages())
    await outbox.publish()
    assert await ages() == (0, 0)
