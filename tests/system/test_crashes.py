"""Processes are killed or stopped while customers buy: everything that was begun is finished or undone."""

import asyncio
import signal
from collections import Counter

import aiohttp
import asyncpg
import pytest

from tests.infrastructure.books import violations
from tests.infrastructure.shopping import (
    PATIENCE_SECONDS,
    a_product,
    a_user,
    an_order,
    insist,
    new_id,
    wait_until_sagas_ended,
)
from tests.infrastructure.stack import SERVICES, Shop, Stack
from tests.infrastructure.waiting import eventually

ORDERS = 500
AT_A_TIME = 40
POOR = 50  # less than any price


class Customers:
    """Places orders of every kind, and counts how they ended."""

    def __init__(self, shop: Shop, products: list[str], users: list[str], poor: str) -> None:
        self._shop, self._products, self._users, self._poor = shop, products, users, poor
        self._places = asyncio.Semaphore(AT_A_TIME)
        self.ended: Counter[str] = Counter()

    async def buy(self, number: int) -> None:
        """Place an order. Its kind depends on its number, so that every sequence of orders has all kinds."""
        async with self._places:
            kind = ("now", "now", "now-coupon", "later-paid", "later-coupon-paid", "cancelled", "refunded", "poor")[
                number % 8
            ]
            self.ended[f"{kind} {await self._buy(kind, number)}"] += 1

    async def _buy(self, kind: str, number: int) -> str:
        user = self._poor if kind == "poor" else self._users[number % len(self._users)]
        products = [self._products[number % 5], self._products[5 + number % 3]]
        body = an_order(user, *products, payment="later" if kind.startswith(("later", "cancelled")) else "now")
        if "coupon" in kind or kind == "poor":
            body["coupon_id"] = await self._coupon(user)
        answer = await insist(self._shop, "/v1/orders", body)
        order = f"/v1/orders/{answer.body['order_id']}"
        if kind.startswith("later"):
            answer = await insist(self._shop, f"{order}/payment")
        elif kind in ("cancelled", "refunded"):
            answer = await insist(self._shop, f"{order}/cancel")
        return answer.problem if answer.status >= 400 else str(answer.body["status"])

    async def _coupon(self, user: str) -> str:
        """Create a coupon; repeat while the coupon service is down. The coupon's id serves as idempotency key."""
        coupon_id = new_id("coupon")

        async def given() -> bool:
            try:
                body = {"coupon_id": coupon_id, "user_id": user, "kind": "percent", "value": 10}
                answer = await self._shop.coupon.call("POST", "/v1/coupons", body)
            except aiohttp.ClientError:
                return False
            return answer.status in (201, 409)

        await eventually(given, PATIENCE_SECONDS, "a coupon")
        return coupon_id


@pytest.mark.timeout(240)
async def test_five_hundred_orders_add_up_although_each_service_is_killed_among_them(stack: Stack, shop: Shop) -> None:
    products = [await a_product(shop) for _ in range(8)]
    users = [await a_user(shop) for _ in range(10)]
    customers = Customers(shop, products, users, await a_user(shop, POOR))
    tasks = [asyncio.create_task(customers.buy(number)) for number in range(ORDERS)]

    async def killing() -> None:
        for turn, service in enumerate(SERVICES, 1):
            until = turn * ORDERS // (len(SERVICES) + 1)

            async def far_enough(until: int = until) -> bool:
                return customers.ended.total() >= until or any(task.done() and task.exception() for task in tasks)

            await eventually(far_enough, PATIENCE_SECONDS, f"{until} orders")
            await stack.restarted(service, stack.signal(service, signal.SIGKILL))

    try:
        await asyncio.gather(killing(), *tasks)
    finally:
        for task in tasks:
            task.cancel()
    assert customers.ended == {
        "now PAID": 126,
        "now-coupon PAID": 63,
        "later-paid PAID": 63,
        "later-coupon-paid PAID": 62,
        "cancelled CANCELLED": 62,
        "refunded REFUNDED": 62,
        "poor insufficient-balance": 62,
    }
    await wait_until_sagas_ended(stack)
    assert await violations(stack.database.url) == []


async def in_flight(stack: Stack, user: str, count: int) -> None:
    """Wait until the user's orders have been started."""
    connection = await asyncpg.connect(stack.database.url)

    async def started() -> bool:
        query = "SELECT count(*) FROM orders.orders WHERE user_id = $1 AND status = 'PLACING'"
        return bool(await connection.fetchval(query, user) == count)

    try:
        await eventually(started, PATIENCE_SECONDS, f"{count} orders in flight")
    finally:
        await connection.close()


@pytest.mark.parametrize(("participant_returns", "status"), [(True, 201), (False, 202)])
async def test_a_service_that_is_stopped_answers_what_is_in_flight(
    stack: Stack, shop: Shop, participant_returns: bool, status: int
) -> None:
    product, user = await a_product(shop), await a_user(shop)
    held_up = stack.signal("product", signal.SIGSTOP)
    try:
        body = an_order(user, product)
        calls = [asyncio.create_task(shop.order.call("POST", "/v1/orders", body)) for _ in range(30)]
        await in_flight(stack, user, len(calls))
        stopped = stack.signal("order", signal.SIGTERM)
        if participant_returns:
            stack.signal("product", signal.SIGCONT)
        answers = await asyncio.gather(*calls)
    finally:
        stack.signal("product", signal.SIGCONT)
    assert Counter(answer.status for answer in answers) == {status: 30}
    await stack.restarted("order", stopped)
    await wait_until_sagas_ended(stack)
    for answer in answers:
        assert (await shop.order.get(f"/v1/orders/{answer.body['order_id']}"))["status"] == "PAID"
    assert stack.pid("product") == held_up
    assert await violations(stack.database.url) == []
