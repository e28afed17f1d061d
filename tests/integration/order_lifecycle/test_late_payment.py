"""Payments after `expires_at`, payments with an unknown outcome at `expires_at`, and repeated payments."""

import asyncio
from typing import Any

import pytest

from services.order.engine import participants
from tests.infrastructure.books import violations
from tests.infrastructure.checkout import Checkout, serving_checkout
from tests.infrastructure.databases import Database
from tests.infrastructure.proxy import Mode
from tests.infrastructure.shopping import a_product, a_user, an_order, new_id
from tests.infrastructure.waiting import eventually

MONEY, PRICE = 1000, 300
NEVER = 3600
DEBITS = "SELECT count(*) FROM balances.entries WHERE order_id = $1 AND kind = 'debit'"
OVER = "SELECT expires_at < clock_timestamp() FROM orders.orders WHERE order_id = $1"


async def place(checkout: Checkout, money: int = MONEY) -> dict[str, Any]:
    """Place an order that is paid later."""
    product, user = await a_product(checkout.shop, price=PRICE, stock=1), await a_user(checkout.shop, money)
    order: dict[str, Any] = await checkout.shop.order.post("/v1/orders", an_order(user, product, payment="later"))
    return order


async def over(checkout: Checkout, order_id: str) -> None:
    """Wait until the order is past `expires_at`, by the database's clock."""

    async def is_over() -> bool:
        return bool(await checkout.value(OVER, order_id))

    await eventually(is_over, 10, "the order's time")


async def is_closing(checkout: Checkout, order_id: str) -> bool:
    """Return whether the scheduler has begun to expire the order."""
    return bool((await checkout.shop.order.get(f"/v1/orders/{order_id}")).get("closing"))


async def becomes(checkout: Checkout, order_id: str, status: str) -> None:
    """Wait until the order has a status."""

    async def is_so() -> bool:
        return bool((await checkout.shop.order.get(f"/v1/orders/{order_id}"))["status"] == status)

    await eventually(is_so, 10, f"the order {status}")


async def test_expired_order_refuses_payment_even_before_the_scheduler_ran(database: Database) -> None:
    async with serving_checkout(database, payment_timeout_seconds=0.3, expiry_interval_seconds=NEVER) as checkout:
        order = await place(checkout)
        path = f"/v1/orders/{order['order_id']}"
        await over(checkout, order["order_id"])
        late = await checkout.shop.order.call("POST", f"{path}/payment", headers={"Idempotency-Key": "late"})
        assert (late.status, late.problem) == (409, "order-expired")
        assert (await checkout.shop.order.get(path))["status"] == "PENDING_PAYMENT"
        assert await checkout.value(DEBITS, order["order_id"]) == 0
    async with serving_checkout(database, payment_timeout_seconds=0.3) as checkout:
        await becomes(checkout, order["order_id"], "EXPIRED")
        for key in ("late", "later"):
            again = await checkout.shop.order.call("POST", f"{path}/payment", headers={"Idempotency-Key": key})
            assert (again.status, again.problem) == (409, "order-expired")
        assert (await checkout.shop.balance.get(f"/v1/accounts/{order['user_id']}"))["balance"] == MONEY
        product = order["lines"][0]["product_id"]
        assert (await checkout.shop.product.get(f"/v1/products/{product}"))["stock"] == 1
    assert await violations(database.url) == []


@pytest.mark.parametrize(
    ("mode", "money", "status", "left"),
    [
        (Mode.DEAF, MONEY, "PAID", MONEY - PRICE),
        (Mode.CLOSED, MONEY, "PAID", MONEY - PRICE),
        (Mode.DEAF, 5, "EXPIRED", 5),
    ],
    ids=["debited already", "not asked yet", "refused already"],
)
async def test_order_expires_only_after_its_payments_outcome_is_known(
    database: Database, monkeypatch: pytest.MonkeyPatch, mode: Mode, money: int, status: str, left: int
) -> None:
    monkeypatch.setattr(participants, "CALL_TIMEOUT_SECONDS", 0.3)
    settings = {"payment_timeout_seconds": 1.5, "request_deadline_seconds": 1}
    async with serving_checkout(database, **settings) as checkout:
        order = await place(checkout, money)
        order_id, path = order["order_id"], f"/v1/orders/{order['order_id']}"
        checkout.ways["balance"].set(mode)
        try:
            paying = await checkout.shop.order.call("POST", f"{path}/payment")
            assert (paying.status, paying.body["status"]) == (202, "PAYING")
            other = await place(checkout)  # placed later, so its closing shows that the scheduler has run
            await eventually(lambda: is_closing(checkout, other["order_id"]), 10, "the other order's closing")
            assert await checkout.value(OVER, order_id)
            assert (await checkout.shop.order.get(path))["status"] == "PAYING"
            cancelling = await checkout.shop.order.call("POST", f"{path}/cancel")
            assert (cancelling.status, cancelling.problem) == (409, "order-not-cancellable")
        finally:
            checkout.ways["balance"].set(Mode.OPEN)
        await becomes(checkout, order_id, status)
        await becomes(checkout, other["order_id"], "EXPIRED")
        assert (await checkout.shop.balance.get(f"/v1/accounts/{order['user_id']}"))["balance"] == left
        assert await checkout.value(DEBITS, order_id) == (1 if status == "PAID" else 0)
    assert await violations(database.url) == []


async def test_repeated_requests_do_not_extend_the_time_to_pay(database: Database) -> None:
    async with serving_checkout(database, payment_timeout_seconds=1.5) as checkout:
        product, user = await a_product(checkout.shop, price=PRICE), await a_user(checkout.shop, 5)
        body, key = an_order(user, product, payment="later"), {"Idempotency-Key": new_id("key")}
        placed = await checkout.shop.order.call("POST", "/v1/orders", body, headers=key)
        expires_at, path = placed.body["expires_at"], f"/v1/orders/{placed.body['order_id']}"
        expiries = {expires_at}
        for _ in range(5):
            answers = await asyncio.gather(*(checkout.shop.order.call("POST", f"{path}/payment") for _ in range(3)))
            assert {answer.problem for answer in answers} == {"insufficient-balance"}
            again = await checkout.shop.order.call("POST", "/v1/orders", body, headers=key)
            assert (again.status, again.body["order_id"]) == (201, placed.body["order_id"])
            expiries |= {again.body["expires_at"], (await checkout.shop.order.get(path))["expires_at"]}
        assert expiries == {expires_at}
        await becomes(checkout, placed.body["order_id"], "EXPIRED")
        late = await checkout.value("SELECT ended_at - expires_at < interval '5 seconds' FROM orders.orders "
                                 "JOIN orders.sagas USING (order_id) WHERE order_id = $1 AND kind = 'close'",
                                 placed.body["order_id"])  # fmt: skip
        assert late
        assert (await checkout.shop.order.get(path))["expires_at"] == expires_at
    assert await violations(database.url) == []
