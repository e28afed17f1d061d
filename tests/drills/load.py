"""Customers who buy without pause, repeat a request until its answer is final, and keep what they were told."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

from tests.faults.cluster import REPLICAS
from tests.infrastructure.services import Answer, Client
from tests.infrastructure.shopping import new_id
from tests.infrastructure.waiting import eventually

PATIENCE_SECONDS = 90
AGAIN_SECONDS = 0.1  # a client's pause before it repeats a request
BALANCE = 10**12
STOCK = 10**9
USERS = 8
PRODUCTS = 4

Clients = Callable[[str], Client]


@dataclass(slots=True)
class Purchase:
    """One order that a customer wants. `order_id` and `status` are what the customer was last told."""

    order_id: str | None = None
    status: str | None = None

    @property
    def is_acknowledged(self) -> bool:
        """Return whether the customer was told that the order is paid."""
        return self.status == "PAID"


@dataclass(slots=True)
class Load:
    """Buys at all order replicas alternately, as a gateway would send it.

    A refused connection goes to the next replica; nothing was sent on it. Everything else without a final answer is a
    failed request: an error, a timeout, or a status of 500 and above.
    """

    clients: Clients
    requests: int = 0
    purchases: list[Purchase] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)
    answered: dict[str, float] = field(default_factory=dict)  # when each replica last sold something
    _users: list[str] = field(default_factory=list)
    _products: list[str] = field(default_factory=list)
    _turns: "itertools.cycle[str]" = field(default_factory=lambda: itertools.cycle(REPLICAS))
    _ends: asyncio.Event = field(default_factory=asyncio.Event)

    async def prepare(self) -> None:
        """Create products with stock and users with money, before the first fault."""
        for _ in range(PRODUCTS):
            product = {"product_id": new_id("product"), "name": "Thing", "price": 100, "stock": STOCK}
            await self.clients("product").post("/v1/products", product)
            self._products.append(str(product["product_id"]))
        for _ in range(USERS):
            self._users.append(new_id("user"))
            await self.clients("balance").post(f"/v1/accounts/{self._users[-1]}/charges", {"amount": BALANCE})

    def a_customer(self, number: int = 0) -> tuple[str, str]:
        """Return a user with money, and a product with stock."""
        return self._users[number % USERS], self._products[number % PRODUCTS]

    async def buy(self, customers: int) -> None:
        """Buy with this many customers at a time until `end` is called; return when all orders have their answers."""
        self._ends.clear()
        async with asyncio.TaskGroup() as group:
            for number in range(customers):
                group.create_task(self._customer(*self.a_customer(number)))

    @property
    def acknowledged(self) -> int:
        """Return how many orders customers were told to be paid."""
        return sum(one.is_acknowledged for one in self.purchases)

    async def bought(self, count: int) -> None:
        """Wait until customers have bought this many more."""
        before = self.acknowledged

        async def enough() -> bool:
            return self.acknowledged >= before + count

        await eventually(enough, PATIENCE_SECONDS, f"{count} orders")

    def end(self) -> None:
        """Let no customer begin another order."""
        self._ends.set()

    def reset(self) -> None:
        """Forget what was counted; the products and users stay."""
        self.requests, self.purchases, self.failed, self.answered = 0, [], [], {}

    async def _customer(self, user: str, product: str) -> None:
        while not self._ends.is_set():
            purchase = Purchase()
            self.purchases.append(purchase)
            await self._buy(purchase, user, product)

    async def _buy(self, purchase: Purchase, user: str, product: str) -> None:
        body = {"user_id": user, "lines": [{"product_id": product, "quantity": 1}]}
        headers = {"Idempotency-Key": new_id("key")}
        deadline = time.monotonic() + PATIENCE_SECONDS
        answer: Answer | None = None
        while time.monotonic() < deadline:
            answer = await self.send(lambda client: client.call("POST", "/v1/orders", body, headers=headers))
            if answer is not None and answer.status < 500 and "order_id" in answer.body:
                purchase.order_id, purchase.status = answer.body["order_id"], answer.body.get("status")
            if answer is not None and answer.status == 201:
                return
            assert answer is None or answer.status in (202, 409) or answer.status >= 500, answer
            await asyncio.sleep(AGAIN_SECONDS)
        failures = Counter(why for _, why in self.failed)
        raise AssertionError(f"no final answer within {PATIENCE_SECONDS} s, last {answer}; {failures}")

    async def send(self, call: Callable[[Client], Awaitable[Answer]]) -> Answer | None:
        """Send a request to a replica; return its answer, None without one. Counts it, and whether it failed."""
        self.requests += 1
        failure = ""
        first = next(self._turns)
        for replica in (first, *(other for other in REPLICAS if other != first)):
            try:
                answer = await call(self.clients(replica))
            except aiohttp.ClientConnectorError as error:
                failure = type(error).__name__
                continue
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                failure = type(error).__name__
                break
            if answer.status >= 500:
                self.failed.append((time.monotonic(), str(answer.status)))
            elif answer.status == 201:
                self.answered[replica] = time.monotonic()
            return answer
        self.failed.append((time.monotonic(), failure))
        return None
