"""The checker of the books finds everything that is lost or invented, at each service."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.infrastructure.books import violations
from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client, migrate_service, serving

PARTICIPANTS = ("product", "coupon", "balance")
ORPHAN = "'00000000-0000-7000-8000-000000000000'::uuid"


@pytest.fixture(scope="module")
def migrated(database: Database) -> dict[str, str]:
    """Return each service's address of the module's database."""
    return {service: migrate_service(service, database) for service in ("order", *PARTICIPANTS)}


@pytest.fixture
async def connection(database: Database, migrated: dict[str, str]) -> AsyncIterator[asyncpg.Connection]:
    """Return a superuser's connection to books that balance, with an order of each final status."""
    connection = await asyncpg.connect(database.url)
    if await connection.fetchval("SELECT count(*) FROM orders.orders") == 0:
        await _fill(migrated)
    assert await violations(database.url) == []
    try:
        yield connection
    finally:
        await connection.close()


async def _fill(migrated: dict[str, str]) -> None:
    async with (
        serving("product", migrated["product"]) as product,
        serving("coupon", migrated["coupon"]) as coupon,
        serving("balance", migrated["balance"]) as balance,
    ):
        await product.post("/v1/products", {"product_id": "cup", "name": "Cup", "price": 1000, "stock": 10})
        await balance.post("/v1/accounts/ann/charges", {"amount": 5000})
        for n in range(2):
            await coupon.post("/v1/coupons", {"coupon_id": f"c{n}", "user_id": "ann", "kind": "fixed", "value": 10})
        urls = {
            f"{name}_url": client.url for name, client in zip(PARTICIPANTS, (product, coupon, balance), strict=True)
        }
        async with serving("order", migrated["order"], **urls) as order:
            await _shop(order)


async def _shop(order: Client) -> None:
    body = {"user_id": "ann", "lines": [{"product_id": "cup", "quantity": 1}]}
    await order.post("/v1/orders", body | {"coupon_id": "c0"})
    await order.post("/v1/orders", body | {"coupon_id": "c1", "payment": "later"})
    paid = await order.post("/v1/orders", body)
    await order.post(f"/v1/orders/{paid['order_id']}/cancel", None)
    answer = await order.call("POST", "/v1/orders", body | {"coupon_id": "c9"})
    assert answer.problem == "invalid-coupon"


# Each change to the books, and the expected finding. The changes accumulate, because the ledger can't be repaired.
INJURIES = {
    "units that nobody put in": ("UPDATE products.products SET stock = stock - 2", "free + "),
    "units held for an order that does not exist": (
        f"INSERT INTO products.holds (order_id, product_id, quantity, unit_price) VALUES ({ORPHAN}, 'cup', 1, 1000)",
        "does not exist: stock is kept",
    ),
    "a hold that was given back": (
        "UPDATE products.holds SET status = 'RESTORED', restored_at = now() WHERE order_id = (SELECT order_id FROM "
        "orders.orders WHERE status = 'PENDING_PAYMENT')",
        "is PENDING_PAYMENT: held is {}",
    ),
    "a coupon that was released": (
        "UPDATE coupons.coupons SET status = 'AVAILABLE', order_id = NULL, discount_amount = NULL, held_at = NULL "
        "WHERE coupon_id = 'c0'",
        "is PAID: coupons is []",
    ),
    "a coupon used by an order that does not exist": (
        f"UPDATE coupons.coupons SET status = 'REDEEMED', order_id = {ORPHAN}, discount_amount = 10, held_at = now() "
        "WHERE coupon_id = 'c0'",
        "does not exist: a coupon is kept",
    ),
    "a balance that is not the sum of its entries": (
        "UPDATE balances.accounts SET balance = balance - 1",
        "account ann: has ",
    ),
    "a debit for an order that does not exist": (
        "INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, order_id, attempt, "
        f"balance_after) SELECT 'ann', entry_count + 1, gen_random_uuid(), 'debit', -7, 'sales', {ORPHAN}, 1, "
        "balance - 7 FROM balances.accounts",
        "does not exist: money is kept",
    ),
    "a refund that never came": (
        "UPDATE orders.orders SET status = 'REFUNDED' WHERE status = 'PAID'",
        "is REFUNDED: paid is {'ann': 990}",
    ),
    "an event that is missing": (
        "DELETE FROM orders.outbox WHERE type = 'order.placed.v1'",
        "events is [], not [(1, 'order.placed.v1')]",
    ),
    "an event that describes something else": (
        "UPDATE orders.outbox SET payload = convert_to(replace(convert_from(payload, 'UTF8'), 'REFUNDED', 'PAID'), "
        "'UTF8') WHERE type = 'order.refunded.v1'",
        "its event order.refunded.v1 describes",
    ),
    "a saga that nobody ends": (
        "UPDATE orders.sagas SET status = 'RUNNING', ended_at = NULL WHERE kind = 'place_later'",
        "its saga place_later is still RUNNING",
    ),
    "an order that is being paid": (
        "UPDATE orders.orders SET status = 'PAYING' WHERE status = 'PENDING_PAYMENT'",
        "is still PAYING",
    ),
    "a key without an answer": (
        "INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, saga_id) "
        f"VALUES ('ann', 'place', 'k', '', {ORPHAN})",
        "idempotency key k of ann: has no answer",
    ),
}


async def test_lost_and_invented_events_are_found(connection: asyncpg.Connection, database: Database) -> None:
    for what, (statement, expected) in INJURIES.items():
        before = await violations(database.url)
        assert not [line for line in before if expected in line], f"{what}: found before the change"
        assert (await connection.execute(statement)).split()[-1] != "0", what
        after = await violations(database.url)
        assert [line for line in after if expected in line], f"{what}: not found in {after}"
