"""Customers who call every service, keep their connections, repeat no call, and know what each answer has to be."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NoReturn

import aiohttp

from tests.infrastructure.shopping import new_id
from tests.infrastructure.waiting import eventually

CUSTOMERS = 12
PAUSE_SECONDS = 0.1  # at most, before each call: the calls reach into every moment of a replacement
ANSWER_SECONDS = 60  # while a participant is away, a saga waits for it
PRICE, NEW_PRICE, STOCK, MORE, CHARGE = 1000, 1200, 10, 5, 10_000
WORKING = {"PLACING", "PAYING"}
DONE = {200, 201, 202}


class WrongAnswerError(Exception):
    """A customer got no answer, or another one than the right one."""


class Tally:
    """What customers did. `failures` has a line for each call that no customer should see."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.kept = 0  # calls on connections that had been used before
        self.failures: list[str] = []
        self.closing = asyncio.Event()

    async def further(self, calls: int, seconds: float) -> None:
        """Return when the customers have made so many further calls, or one has failed."""
        enough = self.calls.total() + calls

        async def made() -> bool:
            return self.calls.total() >= enough or bool(self.failures)

        await eventually(made, seconds, f"{calls} further calls")


class Customer:
    """One person with one connection."""

    def __init__(self, session: aiohttp.ClientSession, tally: Tally, token: Callable[[str], str]) -> None:
        self._session = session
        self._tally = tally
        self._token = token
        self._user = self._product = ""
        self._headers: dict[str, str] = {}

    def sign_in(self) -> None:
        """Become a new user."""
        self._user = new_id("user")
        self._headers = {"Authorization": f"Bearer {self._token(self._user)}"}

    async def use_everything(self) -> None:
        """As a new user, make each kind of public call, and compare all books at the end."""
        self.sign_in()
        product = await self.create_product()
        stocked = await self.call("POST", f"/v1/products/{product}/stock", {"delta": MORE})
        self.check(stocked, stock=STOCK + MORE)
        self.check(await self.call("PATCH", f"/v1/products/{product}", {"price": NEW_PRICE}), price=NEW_PRICE)
        await self.charge(CHARGE)
        coupon = new_id("coupon")
        body = {"coupon_id": coupon, "user_id": self._user, "kind": "percent", "value": 10}
        self.check(await self.call("POST", "/v1/coupons", body), status="AVAILABLE")
        first = await self.place(product, 2, "PAID", 2 * NEW_PRICE * 9 // 10, coupon_id=coupon)
        redeemed = await self.call("GET", f"/v1/coupons/{coupon}")
        self.check(redeemed, status="REDEEMED", order_id=first)
        second = await self.place(product, 1, "PENDING_PAYMENT", NEW_PRICE, payment="later")
        await self.act(second, "payment", "PAID")
        await self.act(first, "cancel", "REFUNDED")
        third = await self.place(product, 1, "PENDING_PAYMENT", NEW_PRICE, payment="later")
        await self.act(third, "cancel", "CANCELLED")
        self.check(await self.call("GET", f"/v1/coupons/{coupon}"), status="AVAILABLE")
        self.check(await self.call("GET", f"/v1/products/{product}"), stock=STOCK + MORE - 1, price=NEW_PRICE)
        orders = await self.call("GET", "/v1/orders")
        self.check({"orders": [one["order_id"] for one in orders["items"]]}, orders=[third, second, first])
        self.check(await self.call("GET", "/v1/accounts/me"), balance=CHARGE - NEW_PRICE)
        entries = await self.call("GET", "/v1/accounts/me/entries")
        kinds = [one["kind"] for one in entries["items"]]
        self.check({"kinds": kinds}, kinds=["refund", "debit", "debit", "charge"])

    async def prepare(self) -> None:
        """Become a new user with money, and have a product for `order`."""
        self.sign_in()
        self._product = await self.create_product(stock=10**6)
        await self.charge(10**9)

    async def order(self) -> None:
        """Buy now, and later, and cancel: calls of the order service only."""
        paid = await self.place(self._product, 1, "PAID", PRICE)
        later = await self.place(self._product, 1, "PENDING_PAYMENT", PRICE, payment="later")
        await self.act(later, "payment", "PAID")
        await self.act(paid, "cancel", "REFUNDED")
        other = await self.place(self._product, 1, "PENDING_PAYMENT", PRICE, payment="later")
        await self.act(other, "cancel", "CANCELLED")

    async def create_product(self, stock: int = STOCK) -> str:
        """Create a product, read it, and return its id."""
        product = new_id("product")
        body = {"product_id": product, "name": "Tea", "price": PRICE, "stock": stock}
        self.check(await self.call("POST", "/v1/products", body), **body)
        self.check(await self.call("GET", f"/v1/products/{product}"), **body)
        return product

    async def charge(self, amount: int) -> None:
        """Pay into the own account, which is new."""
        self.check(await self.call("POST", "/v1/accounts/me/charges", {"amount": amount}), balance_after=amount)

    async def place(self, product: str, quantity: int, status: str, total: int, **options: Any) -> str:
        """Place an order, wait for its end, and return its id."""
        body = {"lines": [{"product_id": product, "quantity": quantity}], **options}
        order = str((await self.call("POST", "/v1/orders", body))["order_id"])
        self.check(await self.settled(order), status=status, total_amount=total)
        return order

    async def act(self, order: str, act: str, status: str) -> None:
        """Pay or cancel an order, and wait for the end."""
        self.check(await self.call("POST", f"/v1/orders/{order}/{act}"), order_id=order)
        self.check(await self.settled(order), status=status)

    async def settled(self, order: str) -> dict[str, Any]:
        """Read an order until nothing is under way for it."""
        seen: dict[str, Any] = {}

        async def ended() -> bool:
            seen.clear()
            seen.update(await self.call("GET", f"/v1/orders/{order}"))
            return not (seen.get("closing") or seen["status"] in WORKING)

        await eventually(ended, ANSWER_SECONDS, f"the end of {order}")
        return seen

    def check(self, answer: dict[str, Any], **expected: Any) -> None:
        """Compare some members of an answer. Raises WrongAnswerError."""
        found = {name: answer.get(name) for name in expected}
        if found != expected:
            self.fail(f"{found} instead of {expected}, user {self._user}")

    async def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Return the body of a success. Raises WrongAnswerError."""
        await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))
        self._tally.calls[path.split("/")[2]] += 1
        try:
            async with self._session.request(method, path, json=body, headers=self._headers) as response:
                answer: dict[str, Any] = await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self.fail(f"{method} {path}: {error!r}")
        if response.status not in DONE:
            self.fail(f"{method} {path}: {response.status} {answer}")
        return answer

    def fail(self, line: str) -> NoReturn:
        """Take note of a failure. Raises WrongAnswerError."""
        self._tally.failures.append(line)
        raise WrongAnswerError(line)


@asynccontextmanager
async def connected(url: str, tally: Tally, token: Callable[[str], str]) -> AsyncIterator[Customer]:
    """Yield a customer who keeps the connection, and whose library repeats nothing either."""
    tracing = aiohttp.TraceConfig()

    async def reused(*_: Any) -> None:
        tally.kept += 1

    tracing.on_connection_reuseconn.append(reused)
    connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=10)
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout, trace_configs=[tracing]) as session:
        session._retry_connection = False  # by default it repeats a GET whose connection was closed
        yield Customer(session, tally, token)


@asynccontextmanager
async def shopping(
    url: str,
    token: Callable[[str], str],
    shop: Callable[[Customer], Awaitable[None]],
    prepare: Callable[[Customer], Awaitable[None]] | None = None,
) -> AsyncIterator[Tally]:
    """Let customers shop again and again while the body runs, once all have prepared; then each ends what has begun."""
    tally = Tally()

    async def shop_until_closed(one: Customer) -> None:
        while not tally.closing.is_set():
            with suppress(WrongAnswerError):
                await shop(one)

    async with AsyncExitStack() as stack:
        customers = [await stack.enter_async_context(connected(url, tally, token)) for _ in range(CUSTOMERS)]
        if prepare is not None:
            await asyncio.gather(*map(prepare, customers))
        async with asyncio.TaskGroup() as group:
            for one in customers:
                group.create_task(shop_until_closed(one))
            yield tally
            tally.closing.set()
