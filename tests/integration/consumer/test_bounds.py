"""The reference consumer at the limit of 64 bits: its sales are exact, and it does not count up to a huge sequence."""

import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from deploy.consumer import intake, verification
from deploy.consumer.events import Event, event_of
from deploy.consumer.runtime import Pool
from tests.infrastructure.databases import Database
from tests.integration.consumer.history import History
from tests.integration.consumer.platform import OrderEvent, an_order, migrated

MAX = 2**63 - 1
TIMESTAMP = "2026-01-05T09:30:00+00:00"


@pytest.fixture
async def pool(platform_database: Database) -> AsyncIterator[Pool]:
    """Return the consumer's pool of its database; the test uses neither relay nor broker."""
    async with Pool(await migrated(platform_database)) as pool:
        yield pool


def received(event: OrderEvent) -> Event:
    """Return the event as the consumer reads it from the topic."""
    attributes = {
        "event_id": event.event_id,
        "order_id": event.order_id,
        "sequence": event.sequence,
        "type": f"order.{event.name}.{event.version}",
        "occurred_at": TIMESTAMP,
    }
    return event_of(attributes, event.payload, "orders.v1")


async def test_sales_past_64_bits_are_exact(pool: Pool, platform_database: Database, source: random.Random) -> None:
    orders = [an_order(source, ("paid", "refunded")) for _ in range(3)]
    largest = [OrderEvent(e.order_id, e.sequence, e.name, e.user_id, MAX) for order in orders for e in order]
    for events in (largest[::2], largest[1::2][:2]):
        async with pool.transaction() as db:
            await intake.take(db, [received(event) for event in events], "topic")
    db = await asyncpg.connect(platform_database.url)
    try:
        sales = await db.fetchrow("SELECT * FROM platform.sales")
    finally:
        await db.close()
    assert sales is not None
    assert tuple(sales.values()) == ("KRW", 3, 3 * MAX, 2, 2 * MAX)


async def test_a_gap_that_no_order_has_is_not_counted_through(pool: Pool, source: random.Random) -> None:
    (event,) = an_order(source, ("paid",))
    last = OrderEvent(event.order_id, MAX, "paid", event.user_id, 1)
    async with pool.transaction() as db:
        await intake.take(db, [received(last)], "topic")
    await verification.verify(pool, {"orders.v1": History(keeps=False)}, ["orders.v1"], event.order_id)
    async with pool.connection() as db:
        state = await db.fetchval("SELECT state FROM platform.inbox WHERE order_id = $1", event.order_id)
        sequence = await db.fetchval("SELECT sequence FROM platform.streams WHERE order_id = $1", event.order_id)
    assert (state, sequence) == ("WAITING", 0)
