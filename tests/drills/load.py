"""Customers who buy without pause with the client for Python callers, and keep what they were told."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse
from yarl import URL

from deploy.client import Client as Shop
from deploy.client import NoFinalAnswer, Policy, Service, new_key
from tests.faults.cluster import REPLICAS
from tests.infrastructure.services import Client
from tests.infrastructure.shopping import new_id
from tests.infrastructure.waiting import eventually

PATIENCE_SECONDS = 90
ATTEMPT_SECONDS = 10  # then a request without an answer has failed
# Customers wait as long as Retry-After says, but hardly longer, so that the end of a failure shows at once.
AGAIN_SECONDS = 0.1
BALANCE = 10**12
STOCK = 10**9
USERS = 8
PRODUCTS = 4

Clients = Callable[[str], Client]
# Makes a customer's session, whose requests all pass the given middleware.
Sessions = Callable[[ClientMiddlewareType], aiohttp.ClientSession]


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
    failed request: an error, a timeout, or a status of 500 and above. All requests count, also those that the client
    repeats, and those by which it follows an order that was only accepted.
    """

    clients: Clients
    sessions: Sessions
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
        purchase = Purchase()

        async def attempt(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
            return await self._attempt(request, send, purchase)

        pauses = {"first_pause_seconds": AGAIN_SECONDS, "longest_pause_seconds": AGAIN_SECONDS}
        policy = Policy(deadline_seconds=PATIENCE_SECONDS, attempt_seconds=PATIENCE_SECONDS, **pauses)
        urls = {Service.ORDER: self.clients(REPLICAS[0]).url}
        async with self.sessions(attempt) as session, Shop(urls, policy=policy, session=session) as shop:
            while not self._ends.is_set():
                purchase = Purchase()
                self.purchases.append(purchase)
                await self._buy(shop, user, product)

    async def _buy(self, shop: Shop, user: str, product: str) -> None:
        """Buy one unit. Without a final answer, call again with the same key, as the client's README says."""
        key, deadline = new_key(), time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                await shop.orders.place({product: 1}, user_id=user, key=key)
            except NoFinalAnswer as error:
                if time.monotonic() > deadline:
                    failures = Counter(why for _, why in self.failed)
                    raise AssertionError(f"no final answer within {PATIENCE_SECONDS} s: {failures}") from error
            else:
                return

    async def _attempt(self, request: ClientRequest, send: ClientHandlerType, purchase: Purchase) -> ClientResponse:
        """Send a request once, and read its answer. Counts it, whether it failed, and what the customer was told."""
        self.requests += 1
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                replica, response = await self._at_a_replica(request, send)
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.failed.append((time.monotonic(), type(error).__name__))
            raise
        if response.status >= 500:
            self.failed.append((time.monotonic(), str(response.status)))
        elif response.ok:
            order = json.loads(content)
            purchase.order_id, purchase.status = order["order_id"], order["status"]
            if response.status == 201:
                self.answered[replica] = time.monotonic()
        return response

    async def _at_a_replica(self, request: ClientRequest, send: ClientHandlerType) -> tuple[str, ClientResponse]:
        """Return the first answer, and who gave it. Raises ClientConnectorError if all replicas refuse."""
        first = next(self._turns)
        *others, last = (first, *(other for other in REPLICAS if other != first))
        for replica in others:
            try:
                return replica, await self._at(replica, request, send)
            except aiohttp.ClientConnectorError:
                continue
        return last, await self._at(last, request, send)

    async def _at(self, replica: str, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        request.url = request.url.with_port(URL(self.clients(replica).url).port)
        return await send(request)
