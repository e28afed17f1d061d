"""Requests of customers: create products and accounts, place orders, repeat a request until it has an answer."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import asyncpg

from tests.infrastructure.sagas import UNPUBLISHED, sagas_ended
from tests.infrastructure.services import Answer
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import DeadlineError

PATIENCE_SECONDS = 60
AGAIN_SECONDS = 0.2  # a client's pause before it repeats a request without an answer


def new_id(word: str) -> str:
    """Return an id that no other test uses."""
    return f"{word}-{secrets.token_hex(6)}"


async def a_product(shop: Shop, *, price: int = 100, stock: int = 1_000_000) -> str:
    """Create a product with stock; return its id."""
    product_id = new_id("product")
    body = {"product_id": product_id, "name": "Thing", "price": price, "stock": stock}
    await shop.product.post("/v1/products", body)
    return product_id


async def a_user(shop: Shop, balance: int = 1_000_000) -> str:
    """Create a user with money; return the id."""
    user_id = new_id("user")
    if balance:
        await shop.balance.post(f"/v1/accounts/{user_id}/charges", {"amount": balance})
    return user_id


async def a_coupon(shop: Shop, user_id: str, **fields: Any) -> str:
    """Create a coupon of 10 per cent for a user; return its id."""
    coupon_id = new_id("coupon")
    body = {"coupon_id": coupon_id, "user_id": user_id, "kind": "percent", "value": 10, **fields}
    await shop.coupon.post("/v1/coupons", body)
    return coupon_id


def an_order(user_id: str, *products: str, **fields: Any) -> dict[str, Any]:
    """Return the body of an order for one unit of each product."""
    lines = [{"product_id": product_id, "quantity": 1} for product_id in products]
    return {"user_id": user_id, "lines": lines, **fields}


async def an_order_of_a_new_user(shop: Shop) -> dict[str, Any]:
    """Return the body of an order that can be placed: the user has money, and the product is in stock."""
    return an_order(await a_user(shop), await a_product(shop))


async def order_concurrently(shop: Shop, bodies: Sequence[dict[str, Any]], **options: Any) -> list[Answer]:
    """Place all orders at the same time."""
    return await asyncio.gather(*(shop.order.call("POST", "/v1/orders", body, **options) for body in bodies))


async def insist(shop: Shop, path: str, body: Any = None) -> Answer:
    """Call the order service with an idempotency key repeatedly, until it has a final answer."""
    headers = {"Idempotency-Key": new_id("key")}
    deadline = time.monotonic() + PATIENCE_SECONDS
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = answer = await shop.order.call("POST", path, body, headers=headers)
            unfinished = answer.status == 202 or answer.status >= 500
            if not unfinished and "idempotency-in-progress" not in str(answer.body.get("type")):
                return answer
        except aiohttp.ClientError as error:
            last = error
        await asyncio.sleep(AGAIN_SECONDS)
    raise DeadlineError(f"POST {path}: no final answer within {PATIENCE_SECONDS} s, last {last!r}")


async def wait_until_sagas_ended(stack: Stack) -> None:
    """Wait until no saga is live and every event is published."""
    connection = await asyncpg.connect(stack.database.url)
    try:
        await sagas_ended(connection, PATIENCE_SECONDS, UNPUBLISHED)
    finally:
        await connection.close()
