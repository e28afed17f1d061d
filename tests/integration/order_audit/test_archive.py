"""Archived orders: the SQL of docs/scaling.md moves them, the audit leaves them out, and they can be brought back."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from shared.ids import uuid7
from tests.infrastructure.checkout import Checkout, Participants, ordering, participants
from tests.infrastructure.databases import Database
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order
from tests.integration.order_audit.test_findings import grown_old, hold

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = Path(__file__).parents[3] / "docs" / "scaling.md"
CREATE, MOVE, BRING_BACK = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
(BEFORE,) = re.findall(r"timestamptz '(.+?)'", MOVE)
(EXAMPLE,) = re.findall(r"order_id = '(.+?)'", BRING_BACK)
OLD = datetime.fromisoformat(BEFORE) - timedelta(days=1)
# Of an old order, these tables have rows. The ledger refuses changes, so its triggers are off meanwhile.
KEPT = ("orders.orders", "products.holds", "coupons.coupons", "balances.entries")
PRUNED = (
    *("orders.sagas", "orders.outbox"),
    *(f"{name}.{rows}" for name in ("products", "coupons", "balances") for rows in ("gates", "outcomes")),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def others(database: Database) -> AsyncIterator[Participants]:
    async with participants(database) as others:
        yield others


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checkout(database: Database, others: Participants) -> AsyncIterator[Checkout]:
    """Serve an order service that knows since when orders are not archived."""
    async with ordering(database, others, archived_before=BEFORE) as checkout:
        yield checkout


async def aged(checkout: Checkout, order_id: str, but: str = "") -> str:
    """Let an order have been placed long ago, and return its id then. `but`: a table that was not pruned."""
    old = uuid7(OLD)
    async with checkout.db.acquire() as db, db.transaction():
        await db.execute("SET LOCAL session_replication_role = replica")
        for table in (*KEPT, *PRUNED):
            await db.execute(f"UPDATE {table} SET order_id = $2 WHERE order_id = $1", UUID(order_id), old)
        for table in PRUNED:
            if table != but:
                await db.execute(f"DELETE FROM {table} WHERE order_id = $1", old)
    return str(old)


async def moved(database: Database) -> list[str]:
    """Run the SQL as the page says until it moves nothing; return what is in the archive."""
    db = await asyncpg.connect(database.as_role("order_migrator"))
    try:
        while await db.execute(MOVE) != "INSERT 0 0":
            pass
        return sorted(str(row["order_id"]) for row in await db.fetch("SELECT order_id FROM archive.orders"))
    finally:
        await db.close()


async def audit(checkout: Checkout) -> dict[str, Any]:
    report: dict[str, Any] = await checkout.admin.post("/admin/v1/audit", None)
    return report


async def test_old_orders_are_archived_left_out_by_the_audit_and_brought_back(
    database: Database, checkout: Checkout, others: Participants
) -> None:
    shop = checkout.shop
    product, user = await a_product(shop, price=300, stock=10), await a_user(shop, 10_000)

    async def placed(**more: Any) -> str:
        return str((await shop.order.post("/v1/orders", an_order(user, product, **more)))["order_id"])

    paid = await aged(checkout, await placed(coupon_id=await a_coupon(shop, user)))
    cancelled = await placed(payment="later")
    await shop.order.post(f"/v1/orders/{cancelled}/cancel", None)
    cancelled = await aged(checkout, cancelled)
    unpublished, running = [
        await aged(checkout, await placed(), but=table) for table in ("orders.outbox", "orders.sagas")
    ]
    unpaid = await aged(checkout, await placed(payment="later"))
    young = await placed()
    await grown_old(UUID(young))
    report = await audit(checkout)
    assert (report["clean"], report["orders"], report["archived_before"]) == (True, 1, BEFORE)

    await checkout.db.execute(CREATE)
    assert await moved(database) == sorted([paid, cancelled])
    assert (await audit(checkout))["clean"] is True
    assert (await shop.order.call("GET", f"/v1/orders/{paid}")).problem == "order-not-found"
    assert (await shop.order.call("POST", f"/v1/orders/{paid}/cancel", None)).problem == "order-not-found"
    listed = await shop.order.get(f"/v1/orders?user_id={user}")
    assert {one["order_id"] for one in listed["items"]} == {unpublished, running, unpaid, young}
    async with ordering(database, others) as careless:
        findings = (await audit(careless))["findings"]
    found = [(one["kind"], one["participant"]) for one in findings if one["order_id"] == paid]
    assert sorted(found) == [("orphan", participant) for participant in ("balance", "coupon", "product")]

    stock = (await shop.product.get(f"/v1/products/{product}"))["stock"]
    await checkout.db.execute(BRING_BACK.replace(EXAMPLE, paid))
    assert (await shop.order.get(f"/v1/orders/{paid}"))["status"] == "PAID"
    assert (await shop.order.post(f"/v1/orders/{paid}/cancel", None))["status"] == "REFUNDED"
    assert (await shop.product.get(f"/v1/products/{product}"))["stock"] == stock + 1
    assert (await audit(checkout))["clean"] is True


async def test_orders_within_the_retention_are_compared_whatever_is_set(
    database: Database, others: Participants
) -> None:
    async with ordering(database, others, archived_before="2999-01-01T00:00:00Z") as careless:
        product = await a_product(careless.shop, stock=10)
        now = await careless.value("SELECT now()")
        orphan = uuid7(now - timedelta(days=89))
        await hold(careless, orphan, product, 2)
        await hold(careless, uuid7(now - timedelta(days=91)), product, 2)
        findings = (await audit(careless))["findings"]
        assert [(one["kind"], one["order_id"]) for one in findings] == [("orphan", str(orphan))]
        before = datetime.fromisoformat((await audit(careless))["archived_before"])
        assert timedelta(days=89) < datetime.now(UTC) - before < timedelta(days=91)
