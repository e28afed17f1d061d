"""Customers who buy without pause with the client for Python callers, and keep what they were told."""

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import aiohttp
from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse
from yarl import URL

from deploy.client import Client as Shop
from deploy.client import NoFinalAnswer, Policy, new_key
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

T = TypeVar("T")

Clients = Callable[[str], Client]
# Makes a customer's session, whose requests all pass the given middleware.
Sessions = Callable[[ClientMiddlewareType], aiohttp.ClientSession]


@dataclass(frozen=True, slots=True)
class Customer:
    """Someone who always buys the same. `lines` has the units by product, `cell` who serves this user."""

    user_id: str
    lines: Mapping[str, int]
    cell: str = ""


@dataclass(slots=True)
class Purchase:
    """One order that a customer wants. `order_id` and `status` are what the customer was last told.

    `began`, `ended`: by time.monotonic(), from the first request to the final answer.
    """

    order_id: str | None = None
    status: str | None = None
    cell: str = ""
    began: float = field(default=0.0, compare=False)
    ended: float | None = field(default=None, compare=False)

    @property
    def is_acknowledged(self) -> bool:
        """Return whether the customer was told that the order is paid."""
        return self.status == "PAID"


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a final answer: when it ended, by time.monotonic(), why, and of whose customer it was."""

    at: float
    why: str
    cell: str = ""


@dataclass(slots=True)
class Load(ABC):
    """Customers who buy, and what they were told.

    A request without a final answer has failed: an error, a timeout, a request that the client gave up at its deadline,
    or a status of 500 and above. All requests count, also those that the client repeats, and those by which it follows
    an order that was only accepted.
    """

    requests: int = 0
    purchases: list[Purchase] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    answered: dict[str, float] = field(default_factory=dict)  # when each replica or cell last sold something
    bought: dict[int, float] = field(default_factory=dict)  # when each customer's last order began that has its answer
    _ends: asyncio.Event = field(default_factory=asyncio.Event)

    @abstractmethod
    async def prepare(self) -> None:
        """Create products with stock and users with money, before the first fault."""

    @abstractmethod
    def customer(self, number: int) -> Customer:
        """Return one of the customers."""

    @abstractmethod
    def session(self, customer: Customer, attempt: ClientMiddlewareType) -> aiohttp.ClientSession:
        """Return a customer's session, whose requests pass `attempt`."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Return the address that customers know."""

    @abstractmethod
    async def sent(self, request: ClientRequest, send: ClientHandlerType) -> tuple[str, ClientResponse]:
        """Return the answer, and who gave it."""

    @abstractmethod
    async def buy_one(self, shop: Shop, customer: Customer) -> None:
        """Buy once, until there is a final answer."""

    async def buy(self, customers: int) -> None:
        """Buy with this many customers at a time until `end` is called; return when all orders have their answers."""
        self._ends.clear()
        async with asyncio.TaskGroup() as group:
            for number in range(customers):
                group.create_task(self._customer(number))

    @property
    def acknowledged(self) -> int:
        """Return how many orders customers were told to be paid."""
        return sum(one.is_acknowledged for one in self.purchases)

    async def has_sold(self, count: int) -> None:
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
        self.requests, self.purchases, self.failed, self.answered, self.bought = 0, [], [], {}, {}

    async def _customer(self, number: int) -> None:
        customer, purchase = self.customer(number), Purchase()

        async def attempt(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
            return await self._attempt(request, send, purchase)

        async with self.session(customer, attempt) as session, shop_at(self.url, session) as shop:
            while not self._ends.is_set():
                purchase = Purchase(cell=customer.cell, began=time.monotonic())
                self.purchases.append(purchase)
                await self.buy_one(shop, customer)
                purchase.ended, self.bought[number] = time.monotonic(), purchase.began

    async def until_final(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return a call's final answer. Without one, call again with the same key, as the client's README says."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await call()
            except NoFinalAnswer as error:
                if time.monotonic() > deadline:
                    failures = Counter(one.why for one in self.failed)
                    raise AssertionError(f"no final answer within {PATIENCE_SECONDS} s: {failures}") from error

    async def counted(self, request: ClientRequest, send: ClientHandlerType, cell: str) -> tuple[str, ClientResponse]:
        """Send a request once, and read its answer. Count it, and whether it failed. Return who answered, and what."""
        self.requests += 1
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                who, response = await self.sent(request, send)
                await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.CancelledError) as error:
            self.failed.append(Failure(time.monotonic(), type(error).__name__, cell))
            raise
        if response.status >= 500:
            self.failed.append(Failure(time.monotonic(), str(response.status), cell))
        return who, response

    async def _attempt(self, request: ClientRequest, send: ClientHandlerType, purchase: Purchase) -> ClientResponse:
        """Send a request about an order once; keep what the customer was told."""
        who, response = await self.counted(request, send, purchase.cell)
        if response.ok:
            order = await response.json()
            purchase.order_id, purchase.status = order["order_id"], order["status"]
            if response.status == 201:
                self.answered[who] = time.monotonic()
        return response


def shop_at(url: str, session: aiohttp.ClientSession) -> Shop:
    """Return the client of a customer, who is patient and comes back soon."""
    pauses = {"first_pause_seconds": AGAIN_SECONDS, "longest_pause_seconds": AGAIN_SECONDS}
    policy = Policy(deadline_seconds=PATIENCE_SECONDS, attempt_seconds=PATIENCE_SECONDS, **pauses)
    return Shop(url, policy=policy, session=session)


@dataclass(slots=True)
class LoadAtReplicas(Load):
    """Buys at all order replicas alternately, as a gateway would send it.

    A refused connection goes to the next replica; nothing was sent on it.
    """

    clients: Clients = field(kw_only=True)
    sessions: Sessions = field(kw_only=True)
    _users: list[str] = field(default_factory=list)
    _products: list[str] = field(default_factory=list)
    _turns: "itertools.cycle[str]" = field(default_factory=lambda: itertools.cycle(REPLICAS))

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

    def customer(self, number: int) -> Customer:
        """Return one of the customers."""
        user, product = self.a_customer(number)
        return Customer(user, {product: 1})

    def session(self, customer: Customer, attempt: ClientMiddlewareType) -> aiohttp.ClientSession:  # noqa: ARG002
        """Return a session of all customers, whose requests pass `attempt`."""
        return self.sessions(attempt)

    @property
    def url(self) -> str:
        """Return the address of a replica; `sent` replaces it."""
        return self.clients(REPLICAS[0]).url

    async def buy_one(self, shop: Shop, customer: Customer) -> None:
        """Buy once, until there is a final answer."""
        place = partial(shop.orders.place, customer.lines, user_id=customer.user_id, key=new_key())
        await self.until_final(place)

    async def sent(self, request: ClientRequest, send: ClientHandlerType) -> tuple[str, ClientResponse]:
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
