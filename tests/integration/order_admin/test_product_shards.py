"""Orders with products of two product shards, each with a database of its own: checkout, failures, audit and repair."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from services.order.engine import participants as calls_to_participants
from services.order.engine import runner
from services.order.product_shards import shards_of
from tests.infrastructure.checkout import Checkout, Participants, ordering, participants
from tests.infrastructure.databases import Database
from tests.infrastructure.proxy import Mode, Proxy
from tests.infrastructure.services import Client, serving
from tests.infrastructure.shopping import a_user, new_id
from tests.infrastructure.waiting import eventually
from tests.integration.order_admin.operators import command

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARDS, _ = shards_of([((), "http://first"), ((), "http://second")])
PRICES = (300, 5)
SAGAS_MAX = 8
WHO = ("--by", "sue", "--reason", "test")


@dataclass(frozen=True, slots=True)
class Shop:
    """The checkout, and of each shard its service, its database and the proxy before it."""

    checkout: Checkout
    shards: tuple[Client, Client]
    databases: tuple[asyncpg.Pool, asyncpg.Pool]
    ways: tuple[Proxy, Proxy]

    async def product(self, shard: int, *, stock: int = 10) -> str:
        """Create a product at the shard that owns it; return its id."""
        while SHARDS.place_of(product_id := new_id("product")) != f"product-{shard}":
            continue
        body = {"product_id": product_id, "name": f"Of {shard}", "price": PRICES[shard], "stock": stock}
        await self.shards[shard].post("/v1/products", body)
        return product_id

    async def stock(self, *products: str) -> list[int]:
        """Return the free units of products."""
        owners = [int(SHARDS.place_of(product_id)[-1]) for product_id in products]
        found = [
            await self.shards[owner].get(f"/v1/products/{product_id}")
            for owner, product_id in zip(owners, products, strict=True)
        ]
        return [one["stock"] for one in found]

    async def order(self, *products: str, payment: str = "now") -> Any:
        """Place an order of two units of each product; return the answer."""
        user = await a_user(self.checkout.shop)
        lines = [{"product_id": product_id, "quantity": 2} for product_id in products]
        body = {"user_id": user, "lines": lines, "payment": payment}
        return await self.checkout.shop.order.call("POST", "/v1/orders", body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(database: Database, create_database: Callable[..., Database]) -> AsyncIterator[Shop]:
    """Serve the checkout with two product services; calls and retries end soon."""
    second = create_database(migrated=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls_to_participants, "CALL_TIMEOUT_SECONDS", 0.5)
        patch.setattr(runner, "BACKOFF_MAX_SECONDS", 0.2)
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            others = await enter(participants(database))
            client = await enter(serving("product", second.as_role("product_service")))
            port = urlsplit(client.url).port
            assert port is not None
            ways = (others.ways["product"], await enter(Proxy("127.0.0.1", port)))
            urls = {name: url for name, url in others.urls.items() if name != "product_url"}
            urls["product_urls"] = " ".join(way.url for way in ways)
            sharded = Participants(others.clients, others.ways, urls)
            checkout = await enter(ordering(database, sharded, request_deadline_seconds=2, sagas_max=SAGAS_MAX))
            theirs = await enter(asyncpg.create_pool(second.url, min_size=0, max_size=2))
            yield Shop(checkout, (others.clients["product"], client), (checkout.db, theirs), ways)


async def clean(shop: Shop) -> None:
    """Check that no saga is left and that the books agree."""
    await shop.checkout.until_idle()

    async def agree() -> bool:
        report = await shop.checkout.admin.post("/admin/v1/audit", {})
        assert report["clean"], report["findings"]
        return bool(report["recent"] == 0)

    await eventually(agree, 10, "all orders were old enough to be compared")


async def test_order_of_both_shards_is_priced_by_line_and_given_back_by_its_refund(shop: Shop) -> None:
    second, first, third = await shop.product(1), await shop.product(0), await shop.product(1)
    placed = await shop.order(second, first, third)
    assert placed.status == 201, placed
    shown = [(line["product_id"], line["name"], line["unit_price"]) for line in placed.body["lines"]]
    assert shown == [(second, "Of 1", 5), (first, "Of 0", 300), (third, "Of 1", 5)]
    assert placed.body["total_amount"] == 2 * (5 + 300 + 5)
    assert await shop.stock(first, second, third) == [8, 8, 8]
    await clean(shop)
    await shop.checkout.shop.order.post(f"/v1/orders/{placed.body['order_id']}/cancel", {})
    assert await shop.stock(first, second, third) == [10, 10, 10]
    await clean(shop)


async def test_order_that_one_shard_refuses_holds_nothing_at_the_other(shop: Shop) -> None:
    first, few = await shop.product(0), await shop.product(1, stock=1)
    refused = await shop.order(first, few, payment="later")
    assert (refused.status, refused.problem) == (400, "out-of-stock")
    assert refused.body["product_ids"] == [few]
    unknown = await shop.order(first, "nobody-1", "nobody-2", "nobody-3")
    assert (unknown.status, unknown.problem) == (404, "product-not-found")
    assert unknown.body["product_ids"] == ["nobody-1", "nobody-2", "nobody-3"]
    assert await shop.stock(first, few) == [10, 1]
    await clean(shop)


@pytest.mark.parametrize("mode", [Mode.CLOSED, Mode.SILENT, Mode.DEAF], ids=lambda mode: mode.name.lower())
async def test_shard_that_does_not_answer_delays_only_the_orders_of_its_products(shop: Shop, mode: Mode) -> None:
    first, second = await shop.product(0), await shop.product(1)
    shop.ways[1].set(mode)
    try:
        waiting = await shop.order(first, second)
        assert waiting.status == 202
        assert (await shop.order(first)).status == 201
        reachable = (await shop.checkout.shop.order.get("/readyz"))["participants_reachable"]
        assert (reachable["product-0"], reachable["product-1"]) == (True, False)
    finally:
        shop.ways[1].set(Mode.OPEN)
    await shop.checkout.until_idle()
    order = await shop.checkout.shop.order.get(f"/v1/orders/{waiting.body['order_id']}")
    assert order["status"] == "PAID"
    assert await shop.stock(first, second) == [6, 8]
    await clean(shop)


async def test_orders_of_a_silent_shard_leave_capacity_for_the_orders_of_the_other(shop: Shop) -> None:
    first, second = await shop.product(0), await shop.product(1, stock=100)
    shop.ways[1].set(Mode.CLOSED)
    try:
        answers = await asyncio.gather(*(shop.order(second) for _ in range(SAGAS_MAX + 2)))
        limit = SAGAS_MAX * 3 // 4
        assert Counter(answer.status for answer in answers) == {202: limit, 503: SAGAS_MAX + 2 - limit}
        assert (await shop.order(first)).status == 201
    finally:
        shop.ways[1].set(Mode.OPEN)
    await clean(shop)


async def forget(shop: Shop, shard: int, order_id: str) -> None:
    """Let a shard forget an order, as if it was restored to an earlier time."""
    db = shop.databases[shard]
    await db.execute(
        """UPDATE products.products AS p SET stock = p.stock + h.quantity FROM products.holds AS h
           WHERE h.order_id = $1 AND h.product_id = p.product_id AND h.status = 'HELD'""",
        order_id,
    )
    for table in ("holds", "outcomes", "gates"):
        await db.execute(f"DELETE FROM products.{table} WHERE order_id = $1", order_id)


async def audited(shop: Shop) -> list[tuple[str, str]]:
    """Return the findings of the command line's audit: kind and participant."""
    report = (await command(shop.checkout, "audit", "--json")).json
    return [(finding["kind"], finding["participant"]) for finding in report["findings"]]


async def test_restored_shard_gets_its_part_again_and_the_other_shard_nothing(shop: Shop) -> None:
    first, second = await shop.product(0), await shop.product(1)
    placed = await shop.order(first, second)
    await clean(shop)
    await forget(shop, 1, placed.body["order_id"])
    assert await audited(shop) == [("missing", "product-1")]
    assert (await command(shop.checkout, "repair", *WHO, "--restored", "product")).status == 0
    assert await shop.stock(first, second) == [8, 8]
    await clean(shop)
    held = [await client.holds(placed.body["order_id"]) for client in shop.shards]
    assert held == [{placed.body["order_id"]: {name: 2}} for name in (first, second)]


async def test_orphan_at_one_shard_is_given_back_there(shop: Shop) -> None:
    first, second = await shop.product(0), await shop.product(1)
    placed = await shop.order(first, second)
    order_id = placed.body["order_id"]
    await shop.checkout.shop.order.post(f"/v1/orders/{order_id}/cancel", {})
    await clean(shop)
    # The second shard was restored to the time before the cancellation.
    db = shop.databases[1]
    await db.execute("UPDATE products.holds SET status = 'HELD', restored_at = NULL WHERE order_id = $1", order_id)
    await db.execute("UPDATE products.products SET stock = stock - 2 WHERE product_id = $1", second)
    for table in ("outcomes", "gates"):
        await db.execute(f"DELETE FROM products.{table} WHERE order_id = $1", order_id)
    assert await audited(shop) == [("orphan", "product-1")]
    would = (await command(shop.checkout, "repair", *WHO, "--dry-run", "--json")).json
    assert would == [{"would": "restore_stock", "order_id": order_id, "participant": "product-1"}]
    over_http = await shop.checkout.admin.post("/admin/v1/audit/repair", {"actor": "sue", "reason": "test"})
    assert [one["participant"] for one in over_http["commands"]] == ["product-1"]
    assert await shop.stock(first, second) == [10, 10]
    await clean(shop)


async def test_broken_books_of_a_shard_are_found_there_and_totals_are_of_all_shards(shop: Shop) -> None:
    product = await shop.product(1)
    totals = (await shop.checkout.admin.post("/admin/v1/audit", {}))["totals"]
    own = [await client.get("/internal/v1/books") for client in shop.shards]
    assert set(totals) == {"product", "coupon", "balance"}
    assert totals["product"] == {name: sum(one["totals"][name] for one in own) for name in own[0]["totals"]}
    move = "UPDATE products.products SET stock = stock + $2 WHERE product_id = $1"
    await shop.databases[1].execute(move, product, -1)
    assert await audited(shop) == [("books", "product-1")]
    await shop.databases[1].execute(move, product, 1)
    await clean(shop)
