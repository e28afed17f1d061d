"""Customers who buy in every possible way, repeat requests until they get an answer, and record every answer."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.cluster import REPLICAS, Cluster
from tests.infrastructure.services import Answer
from tests.infrastructure.shopping import new_id
from tests.infrastructure.waiting import DeadlineError

PATIENCE_SECONDS = 90
AGAIN_SECONDS = 0.15  # a client's pause before it repeats a request without an answer
POOR = 50  # less than any price
USERS = 12  # at the start; as many more for every 40 orders of each
FLOWS = {
    "now": 4,
    "now, no key": 2,
    "now, coupon": 4,
    "now, refunded": 2,
    "later, paid": 4,
    "later, coupon, paid": 4,
    "later, cancelled": 2,
    "later, refunded": 1,
    "later, forgotten": 2,
    "later, paid at the last moment": 5,
    "later, everything at once": 3,
    "scarce": 2,
    "poor": 1,
    "poor, later": 1,
    "unknown product": 1,
    "someone else's coupon": 1,
}


@dataclass(slots=True)
class Reply:
    """One call's answer, or its error. `key` is the call's idempotency key."""

    operation: str
    key: str | None
    answer: Answer | None
    failure: str = ""

    @property
    def definite(self) -> bool:
        """Return whether the answer is final: no 5xx, and no saga still running."""
        if self.answer is None or self.answer.status == 202 or self.answer.status >= 500:
            return False
        return not self.says("idempotency-in-progress")

    def says(self, problem: str) -> bool:
        """Return whether the answer is this problem."""
        return self.answer is not None and str(self.answer.body.get("type", "")) == f"/problems/{problem}"


@dataclass(slots=True)
class Purchase:
    """What one customer wanted, with all answers.

    A user never buys the same quantity of a first product twice, so (user, quantity) finds its orders in the books.
    """

    flow: str
    user: str
    quantity: int
    body: dict[str, Any]
    order_id: str | None = None
    replies: list[Reply] = field(default_factory=list)

    def of(self, operation: str) -> list[Reply]:
        """Return the answers of one operation."""
        return [reply for reply in self.replies if reply.operation == operation]


class Customers:
    """Customers who buy until they are stopped. `rng` makes all random choices."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._dice = rng
        self._users: list[str] = []
        self._bought: Counter[str] = Counter()
        self.products: list[str] = []
        self.scarce = ""
        self.purchases: list[Purchase] = []
        self.closing = asyncio.Event()

    async def prepare(self) -> None:
        """Create products with stock, before the first fault."""
        self.products = [await self._product(price=10 * (n + 1)) for n in range(6)]
        self.scarce = await self._product(price=10, stock=500)

    async def shop(self, customers: int) -> None:
        """Let this many customers buy, each one purchase after another, until the end."""
        async with asyncio.TaskGroup() as group:
            for _ in range(customers):
                group.create_task(self._customer(random.Random(self._dice.random())))

    async def begin(self, flow: str, rng: random.Random) -> Purchase:
        """Place an order of this flow; the caller does the rest of the flow."""
        purchase = await self._want(flow, rng)
        await self._place(purchase, rng)
        return purchase

    async def operate(self, purchase: Purchase, operation: str, rng: random.Random, after_seconds: float = 0) -> Reply:
        """Pay or cancel after a pause; repeat until there is a final answer."""
        await asyncio.sleep(after_seconds)
        return await self._insist(purchase, operation, f"/v1/orders/{purchase.order_id}/{operation}", rng)

    async def _customer(self, rng: random.Random) -> None:
        while not self.closing.is_set():
            (flow,) = rng.choices(list(FLOWS), list(FLOWS.values()))
            await self._buy(flow, rng)

    async def _buy(self, flow: str, rng: random.Random) -> None:
        purchase = await self.begin(flow, rng)
        if purchase.order_id is not None:
            await self._afterwards(purchase, rng)

    async def _want(self, flow: str, rng: random.Random) -> Purchase:
        user = await self._user(rng)
        self._bought[user] += 1
        quantity = self._bought[user]
        first = self.scarce if flow == "scarce" else rng.choice(self.products[:3])
        lines = [{"product_id": first, "quantity": quantity}]
        lines += [{"product_id": p, "quantity": 1} for p in rng.sample(self.products[3:], rng.randint(0, 3))]
        body: dict[str, Any] = {"user_id": user, "lines": lines, "payment": "later" if "later" in flow else "now"}
        if flow == "unknown product":
            lines[-1] = {"product_id": "no-such-product", "quantity": quantity}
        if "poor" in flow:
            body["user_id"] = user = f"{user}-poor"  # has no account, so no money
        if "coupon" in flow:
            body["coupon_id"] = await self._coupon("somebody" if "else" in flow else user)
        purchase = Purchase(flow, user, quantity, body)
        self.purchases.append(purchase)
        return purchase

    async def _place(self, purchase: Purchase, rng: random.Random) -> None:
        if "no key" in purchase.flow:
            reply = await self._call(purchase, "place", "/v1/orders", None, rng, purchase.body)
        else:
            reply = await self._insist(purchase, "place", "/v1/orders", rng, purchase.body)
        if reply.answer is not None and reply.answer.status in (201, 202):
            purchase.order_id = reply.answer.body["order_id"]

    async def _afterwards(self, purchase: Purchase, rng: random.Random) -> None:
        """Pay, cancel or do nothing, depending on the flow."""
        path = f"/v1/orders/{purchase.order_id}"
        flow = purchase.flow
        if "last moment" in flow:
            timeout = float(self._cluster.environment["ORDER_PAYMENT_TIMEOUT_SECONDS"])
            await asyncio.sleep(rng.uniform(0.8, 1.2) * timeout)
        if "everything at once" in flow:
            operations = rng.choices(["payment", "payment", "cancel"], k=4)
            await asyncio.gather(*(self._insist(purchase, one, f"{path}/{one}", rng) for one in operations))
            return
        if "paid" in flow or "poor, later" in flow or "later, refunded" in flow:
            await self._insist(purchase, "payment", f"{path}/payment", rng)
        if "cancelled" in flow or "refunded" in flow:
            await self._insist(purchase, "cancel", f"{path}/cancel", rng)

    async def _insist(
        self, purchase: Purchase, operation: str, path: str, rng: random.Random, body: Any = None
    ) -> Reply:
        """Repeat a call with one key, at any replica, until its answer is final; sometimes repeat it once more."""
        key = new_id("key")
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            reply = await self._call(purchase, operation, path, key, rng, body)
            if reply.definite:
                if rng.random() < 0.15:
                    await self._call(purchase, operation, path, key, rng, body)
                return reply
            await asyncio.sleep(AGAIN_SECONDS)
        raise DeadlineError(f"{operation} of {purchase.user}: no final answer, last {purchase.replies[-1]}")

    async def _call(
        self, purchase: Purchase, operation: str, path: str, key: str | None, rng: random.Random, body: Any = None
    ) -> Reply:
        headers = {} if key is None else {"Idempotency-Key": key}
        reply = Reply(operation, key, None)
        try:
            reply.answer = await self._cluster.client(rng.choice(REPLICAS)).call("POST", path, body, headers=headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reply.failure = type(error).__name__
        purchase.replies.append(reply)
        return reply

    async def _user(self, rng: random.Random) -> str:
        """Return a user with money and fewer than forty purchases."""
        free = [user for user in self._users if self._bought[user] < 40]
        if len(free) >= USERS:
            return rng.choice(free)
        user = new_id("user")
        headers = {"Idempotency-Key": new_id("charge")}
        await self._until_done("balance", f"/v1/accounts/{user}/charges", {"amount": 10_000_000}, headers=headers)
        self._users.append(user)
        return user

    async def _coupon(self, user: str) -> str:
        coupon_id = new_id("coupon")
        body = {"coupon_id": coupon_id, "user_id": user, "kind": "percent", "value": 10}
        await self._until_done("coupon", "/v1/coupons", body)
        return coupon_id

    async def _product(self, price: int, stock: int = 100_000_000) -> str:
        product_id = new_id("product")
        body = {"product_id": product_id, "name": "Thing", "price": price, "stock": stock}
        await self._until_done("product", "/v1/products", body)
        return product_id

    async def _until_done(self, name: str, path: str, body: Any, **options: Any) -> None:
        """Create an object with a given id or key; repeat until it exists."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                if (await self._cluster.client(name).call("POST", path, body, **options)).status in (200, 201, 409):
                    return
            await asyncio.sleep(AGAIN_SECONDS)
        raise DeadlineError(f"{path}: not done within {PATIENCE_SECONDS} s")
