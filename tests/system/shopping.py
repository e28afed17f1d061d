"""What the system tests do as customers: fill shelves and accounts, place orders, insist on an answer."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import asyncpg

from tests.infrastructure.services import Answer
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import DeadlineError, eventually

PATIENCE_SECONDS = 60
AGAIN_SECONDS = 0.2  # how long a client waits before it repeats what was not answered
UNSETTLED = """
    SELECT (SELECT count(*) FROM orders.sagas WHERE status IN ('RUNNING', 'COMPENSATING'))
         + (SELECT count(*) FROM orders.outbox WHERE status = 'PENDING')
"""


def new_id(word: str) -> str:
    """An id that no other test uses."""
    return f"{word}-{secrets.token_hex(6)}"


async def a_product(shop: Shop, *, price: int = 100, stock: int = 1_000_000) -> str:
    """Put a new product on the shelf."""
    product_id = new_id("product")
    body = {"product_id": product_id, "name": "Thing", "price": price, "stock": stock}
    await shop.product.post("/v1/products", body)
    return product_id


async def a_user(shop: Shop, balance: int = 1_000_000) -> str:
    """Someone with money."""
    user_id = new_id("user")
    if balance:
        await shop.balance.post(f"/v1/accounts/{user_id}/charges", {"amount": balance})
    return user_id


async def a_coupon(shop: Shop, user_id: str, **fields: Any) -> str:
    """A coupon of 10 per cent for a user."""
    coupon_id = new_id("coupon")
    body = {"coupon_id": coupon_id, "user_id": user_id, "kind": "percent", "value": 10, **fields}
    await shop.coupon.post("/v1/coupons", body)
    return coupon_id


def an_order(user_id: str, *products: str, **fields: Any) -> dict[str, Any]:
    """The body that orders one unit of each product."""
    lines = [{"product_id": product_id, "quantity": 1} for product_id in products]
    return {"user_id": user_id, "lines": lines, **fields}


async def at_once(shop: Shop, bodies: Sequence[dict[str, Any]], **options: Any) -> list[Answer]:
    """Place all orders at the same time."""
    return await asyncio.gather(*(shop.order.call("POST", "/v1/orders", body, **options) for body in bodies))


async def insist(shop: Shop, path: str, body: Any = None) -> Answer:
    """Call the order service with an idempotency key, again and again until it has a final answer."""
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


async def settle(stack: Stack) -> None:
    """Wait until no saga is live and every event is out."""
    connection = await asyncpg.connect(stack.database.url)

    async def settled() -> bool:
        return bool(await connection.fetchval(UNSETTLED) == 0)

    try:
        await eventually(settled, PATIENCE_SECONDS, "the end of all sagas and the last event")
    finally:
        await connection.close()
