"""What the reference consumer keeps at the end of 64 bits: exact sales, and no sequence that it would count up to."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from deploy.consumer import gaps, intake
from deploy.consumer.events import Event, event_of
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.store import Gap
from shared.migrations import migrate
from shared.postgres import Pool
from tests.infrastructure.databases import Database
from tests.integration.consumer.platform import MIGRATIONS, OrderEvent, an_order

MAX = 2**63 - 1
MOMENT = "2026-01-05T09:30:00+00:00"


@pytest.fixture
async def pool(platform_database: Database) -> AsyncIterator[Pool]:
    """The consumer's connections to its database; neither relay nor broker is asked."""
    await asyncio.to_thread(migrate, platform_database.url, "platform", MIGRATIONS)
    settings = ConsumerSettings.model_validate(
        {"database_url": platform_database.url, "kafka_bootstrap_servers": "127.0.0.1:1"}
    )
    async with Pool(settings, "bounds") as pool:
        yield pool


def received(event: OrderEvent) -> Event:
    """The event as it comes from the topic."""
    return event_of(
        event_id=str(event.event_id),
        order_id=str(event.order_id),
        sequence=str(event.sequence),
        type_=f"order.{event.name}.{event.version}",
        occurred_at=MOMENT,
        payload=event.payload,
    )


async def test_sales_past_64_bits_are_exact(pool: Pool, platform_database: Database, source: random.Random) -> None:
    orders = [an_order(source, ("paid", "refunded")) for _ in range(3)]
    largest = [OrderEvent(e.order_id, e.sequence, e.name, e.user_id, MAX) for order in orders for e in order]
    for events in (largest[::2], largest[1::2][:2]):
        async with intake.transaction(pool) as db:
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
    async with intake.transaction(pool) as db:
        await intake.take(db, [received(last)], "topic")
    await gaps._fill(pool, Gap(event.order_id, 1, MAX - 1), MAX - 1, [])
    async with pool.connection() as db:
        state = await db.fetchval("SELECT state FROM platform.inbox WHERE order_id = $1", event.order_id)
        sequence = await db.fetchval("SELECT sequence FROM platform.streams WHERE order_id = $1", event.order_id)
    assert (state, sequence) == ("WAITING", 0)
