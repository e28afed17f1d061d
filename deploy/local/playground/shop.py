"""What demo customers do, by the services' public API; and the shelf that can be emptied. `t`: a visitor's texts.

What a service does not tell now is shown as it was told last.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from deploy.client import Account, Client, ClientError, NoFinalAnswer, Order, OutcomeUnknown, Policy, Problem, Product
from deploy.client.transport import Service
from deploy.console.texts import Texts
from deploy.local.demo import BALANCES, PRODUCTS
from deploy.local.supervisor import Say

CUSTOMERS = tuple(BALANCES)
PRODUCT_IDS = tuple(str(product["product_id"]) for product in PRODUCTS)
READ_SECONDS = 1.0  # a page is made each second
ACT_SECONDS = 3.0  # then the order goes on by itself, and the page shows it
EMPTY_SECONDS = 30.0
AGAIN_SECONDS = 1.0
ORDERS_SHOWN = 8
SHELF_SCOPE = "catalog:write"
FAILURES = (ClientError, aiohttp.ClientError, TimeoutError)

Token = Callable[[str, str], str]  # of a user with scopes


@dataclass(frozen=True, slots=True)
class Seen:
    """What a customer sees. `silent`: services that did not answer."""

    products: Sequence[Product]
    account: Account | None
    orders: Sequence[Order]
    silent: Sequence[str]


class Shop:
    """The shop at these services. `token` makes callers' tokens; None in open mode.

    `remember` keeps what was taken from the shelf, for the case that this process is killed; `taken` is what it kept.
    """

    def __init__(
        self,
        urls: Mapping[Service, str],
        token: Token | None,
        session: aiohttp.ClientSession,
        say: Say,
        remember: Callable[[Mapping[str, int]], None],
        taken: Mapping[str, int],
        empty_seconds: float = EMPTY_SECONDS,
    ) -> None:
        self._urls, self._token, self._session, self._say = urls, token, session, say
        self._empty_seconds = empty_seconds
        self._told: dict[tuple[str, str], Any] = {}
        self._emptied: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}
        self._remember, self._taken = remember, dict(taken)
        for product_id, units in taken.items():
            self._refill_later(product_id, units)
            self.refill(product_id)

    def is_emptied(self, product_id: str) -> bool:
        """Return whether the units of a product were taken away here."""
        return product_id in self._emptied

    async def look(self, customer: str) -> Seen:
        """Return what a customer sees now."""
        client = self._client(customer)

        async def products() -> list[Product]:
            return [one async for one in client.products.list() if one.product_id in PRODUCT_IDS]

        async def orders() -> list[Order]:
            found = []
            async for one in client.orders.list(user_id=customer, page_size=ORDERS_SHOWN):
                found.append(one)
                if len(found) == ORDERS_SHOWN:
                    break
            return found

        told = await asyncio.gather(products(), client.accounts.get(customer), orders(), return_exceptions=True)
        silent = []
        for service, answer in zip(("product", "balance", "order"), told, strict=True):
            if isinstance(answer, FAILURES):
                silent.append(service)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self._told[service, customer] = answer
        known = {service: self._told.get((service, customer)) for service in ("product", "balance", "order")}
        return Seen(known["product"] or [], known["balance"], known["order"] or [], silent)

    async def buy(self, customer: str, product_id: str, payment: Literal["now", "later"], t: Texts) -> str:
        """Order one unit; return what came of it."""
        placing = self._client(customer).orders.place(
            {product_id: 1}, payment=payment, user_id=customer, deadline_seconds=ACT_SECONDS
        )
        return await _told(placing, t)

    async def pay(self, customer: str, order_id: str, t: Texts) -> str:
        """Pay an order; return what came of it."""
        return await _told(self._client(customer).orders.pay(order_id, deadline_seconds=ACT_SECONDS), t)

    async def cancel(self, customer: str, order_id: str, t: Texts) -> str:
        """Cancel an order; return what came of it."""
        return await _told(self._client(customer).orders.cancel(order_id, deadline_seconds=ACT_SECONDS), t)

    async def empty(self, product_id: str, t: Texts) -> str:
        """Take all units of a product away, for half a minute; return what came of it."""
        if product_id in self._emptied:
            return t("shop.told.empty_already", name=product_id)
        try:
            products = self._client("playground", SHELF_SCOPE).products
            taken = (await products.get(product_id, deadline_seconds=ACT_SECONDS)).stock
            if taken == 0:
                return t("shop.told.empty_already", name=product_id)
            await products.move_stock(product_id, -taken, deadline_seconds=ACT_SECONDS)
        except FAILURES as error:
            return t("shop.told.not_empty", name=product_id, why=error)
        self._taken[product_id] = taken
        self._remember(self._taken)
        self._refill_later(product_id, taken)
        self._say(f"Playground: the stock of {product_id} is empty")
        return t("shop.told.empty", n=f"{taken:,}", name=product_id, seconds=f"{self._empty_seconds:g}")

    def refill(self, product_id: str) -> None:
        """Put the units back now, if they were taken away."""
        if product_id in self._emptied:
            self._emptied[product_id][0].set()

    async def close(self, seconds: float) -> None:
        """Put back what was taken away, within `seconds`."""
        for undo, _ in self._emptied.values():
            undo.set()
        tasks = [task for _, task in self._emptied.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _refill_later(self, product_id: str, units: int) -> None:
        undo = asyncio.Event()
        self._emptied[product_id] = undo, asyncio.create_task(self._refill(product_id, units, undo))

    async def _refill(self, product_id: str, units: int, undo: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._empty_seconds):
                await undo.wait()
        except TimeoutError:
            pass
        products = self._client("playground", SHELF_SCOPE).products
        before: int | None = None
        while True:
            try:
                stock = (await products.get(product_id, deadline_seconds=ACT_SECONDS)).stock
                # More than before an attempt whose outcome is unknown, by as much: that attempt was the one.
                if before is None or stock < before + units:
                    before = stock
                    await products.move_stock(product_id, units, deadline_seconds=ACT_SECONDS)
                break
            except OutcomeUnknown:
                continue
            except FAILURES:
                await asyncio.sleep(AGAIN_SECONDS)
        del self._emptied[product_id], self._taken[product_id]
        self._remember(self._taken)
        self._say(f"Playground: {product_id} has its stock again")

    def _client(self, user: str, scopes: str = "") -> Client:
        make = self._token
        token = None if make is None else (lambda: make(user, scopes))
        return Client(self._urls, token=token, policy=Policy(deadline_seconds=READ_SECONDS), session=self._session)


async def _told(act: Any, t: Texts) -> str:
    """Wait for an operation on an order, and return a sentence for the customer."""
    try:
        order: Order = await act
    except NoFinalAnswer:
        return t("shop.told.open")
    except Problem as refused:
        return t("shop.told.refused", why=refused.detail or refused.slug)
    except FAILURES as error:
        return t("shop.told.failed", why=error)
    lines = ", ".join(t("shop.told.line", n=line.quantity, name=line.name or line.product_id) for line in order.lines)
    amount = f"{order.total_amount or 0:,}"
    return t("shop.told.done", status=order.status, lines=lines, amount=amount, currency=order.currency)
