"""The whole product with a consumer: the consumer's orders equal the order service's tables."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order, wait_until_sagas_ended
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import Platform, platform

ORDERS = 40
# Orders with an event. Rejected orders, and those that are still being placed, have none.
LAST_EVENTS = """
    SELECT o.order_id, o.status, o.user_id, o.total_amount FROM orders.orders AS o
    WHERE EXISTS (SELECT FROM orders.outbox AS e WHERE e.order_id = o.order_id)
"""
DIGESTS = """
    SELECT date_trunc('minute', occurred_at) AS bucket, shard, count(*) AS count,
           sha256(string_agg(uuid_send(event_id) || sha256(payload), '' ORDER BY event_id)) AS hash
    FROM {} GROUP BY 1, 2
"""


@pytest.fixture
async def beside(
    stack: Stack, create_database: Callable[..., Database], tmp_path: Path, reaper: Reaper
) -> AsyncIterator[Platform]:
    connection = await asyncpg.connect(stack.database.url)
    pipeline = Pipeline(stack.database.url, stack.kafka, stack.topic, connection, real_broker=False)
    async with platform(create_database(), pipeline, stack.url("relay"), tmp_path, reaper) as there:
        yield there
    await connection.close()


async def shop_around(shop: Shop, source: random.Random) -> None:
    """Place an order of one of the possible flows."""
    user, product = await a_user(shop), await a_product(shop, price=source.randrange(1, 500))
    way = source.choice(["now", "refunded", "later", "paid later", "cancelled", "rejected"])
    fields = {} if way in ("now", "refunded", "rejected") else {"payment": "later"}
    if source.random() < 0.3:
        fields["coupon_id"] = await a_coupon(shop, user)
    if way == "rejected":
        user = await a_user(shop, 0)
        fields = {}
    answer = await shop.order.call("POST", "/v1/orders", an_order(user, product, **fields))
    path = f"/v1/orders/{answer.body['order_id']}"
    if way == "paid later":
        await shop.order.post(f"{path}/payment", None)
    if way in ("refunded", "cancelled"):
        await shop.order.post(f"{path}/cancel", None)


@pytest.mark.timeout(300)  # a minute must end before it can be proven
async def test_a_platform_that_was_killed_ends_equal_to_the_order_tables_and_proves_it(
    shop: Shop, stack: Stack, beside: Platform
) -> None:
    source = random.Random(7)
    beside.start(CONSUMER_INSTANCE="one")
    for _ in range(3):
        await asyncio.gather(*(shop_around(shop, source) for _ in range(ORDERS // 3)))
        beside.processes[-1].kill()
        beside.start(CONSUMER_INSTANCE="one")
    await wait_until_sagas_ended(stack)
    orders = beside.pipeline.connection

    async def equal() -> bool:
        expected = {
            row["order_id"]: (row["status"], row["user_id"], row["total_amount"])
            for row in await orders.fetch(LAST_EVENTS)
        }
        return len(expected) > ORDERS // 2 and await beside.orders() == expected

    await eventually(equal, 60, "the orders as the order tables have them")
    last = await orders.fetchval("SELECT max(occurred_at) FROM orders.outbox")
    assert datetime.now(UTC) - last < timedelta(minutes=5)
    body = await beside.until_proven(last, 120)
    assert (body["unproven"], body["waiting_orders"], body["dead_letters"]) == ([], 0, 0)
    proven = datetime.fromisoformat(body["proven_up_to"])
    theirs = {tuple(row) for row in await orders.fetch(DIGESTS.format("orders.outbox")) if row["bucket"] < proven}
    ours = await beside.connection.fetch(DIGESTS.format("platform.inbox"))
    assert theirs <= {tuple(row) for row in ours}
    assert theirs
