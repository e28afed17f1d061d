"""Customers of both cells, who buy products of both shards through the router, and know nothing of either."""

import itertools
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import aiohttp
from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse

from deploy.client import Client as Shop
from deploy.client import new_key
from deploy.client.problems import CouponExists
from shared.slots import parse_slots, slot_of
from tests.drills.load import BALANCE, STOCK, Customer, Load, shop_at
from tests.drills.tokens import Tokens
from tests.infrastructure.router import CHOSEN_CELL
from tests.infrastructure.shopping import new_id

CELLS = ("cell-0", "cell-1")
SLOTS = ("0-2047", "2048-4095")  # of the cells, and of the product shards
USERS_OF_A_CELL = 4
PRODUCTS_OF_A_SHARD = 2
PRICE = 100
COUPON_EVERY = 3  # orders
OFFICE = "office"
OFFICE_SCOPES = "catalog:write coupons:write accounts:charge orders:read"


@dataclass(slots=True)
class LoadOfCells(Load):
    """Buys through the router. Every third order has a coupon, which a back office gives the customer before."""

    router_url: str = field(kw_only=True)
    tokens: Tokens = field(kw_only=True)
    customers: list[Customer] = field(default_factory=list)
    _offices: dict[str, Shop] = field(default_factory=dict)
    _turns: "itertools.count[int]" = field(default_factory=itertools.count)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def prepare(self) -> None:
        """Create products with stock and users with money, before the first fault."""
        for cell in CELLS:
            session = self._session(self.tokens.token(OFFICE, OFFICE_SCOPES), partial(self._attempt_of_office, cell))
            self._offices[cell] = shop_at(self.url, await self._stack.enter_async_context(session))
        office = self._offices[CELLS[0]]
        shards = [ids_in(slots, "product", PRODUCTS_OF_A_SHARD) for slots in SLOTS]
        for product_id in itertools.chain(*shards):
            await office.products.create(product_id=product_id, name="Thing", price=PRICE, stock=STOCK)
        both = [{first: 1, second: 2} for first, second in zip(*shards, strict=True)]
        orders = [both[0], *({shard[0]: 1} for shard in shards), both[1]]
        users = [ids_in(slots, "user", USERS_OF_A_CELL) for slots in SLOTS]
        for lines, *same in zip(orders, *users, strict=True):
            for cell, user_id in zip(CELLS, same, strict=True):
                await office.accounts.charge(user_id, BALANCE)
                self.customers.append(Customer(user_id, lines, cell))

    async def close(self) -> None:
        """Close the connections of the back office."""
        await self._stack.aclose()

    def customer(self, number: int) -> Customer:
        """Return one of the customers, of the cells alternately."""
        return self.customers[number % len(self.customers)]

    def session(self, customer: Customer, attempt: ClientMiddlewareType) -> aiohttp.ClientSession:
        """Return a customer's session; only its token says who the customer is."""
        return self._session(self.tokens.token(customer.user_id), attempt)

    @property
    def url(self) -> str:
        """Return the router's address."""
        return self.router_url

    async def buy_one(self, shop: Shop, customer: Customer) -> None:
        """Buy once, until there is a final answer."""
        coupon_id = None
        if next(self._turns) % COUPON_EVERY == 0:
            coupon_id = new_key()
            await self.until_final(partial(self._give, customer, coupon_id))
        await self.until_final(partial(shop.orders.place, customer.lines, coupon_id=coupon_id, key=new_key()))

    async def sent(self, request: ClientRequest, send: ClientHandlerType) -> tuple[str, ClientResponse]:
        """Return the answer, and which cell gave it."""
        response = await send(request)
        return response.headers.get(CHOSEN_CELL, ""), response

    async def _give(self, customer: Customer, coupon_id: str) -> None:
        office = self._offices[customer.cell]
        try:
            await office.coupons.create(user_id=customer.user_id, kind="fixed", value=1, coupon_id=coupon_id)
        except CouponExists:
            return  # an earlier call's attempt made it

    def _session(self, token: str, attempt: ClientMiddlewareType) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {token}"}
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(connector=connector, headers=headers, middlewares=(attempt,))

    async def _attempt_of_office(self, cell: str, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        return (await self.counted(request, send, cell))[1]


def ids_in(slots: str, word: str, count: int) -> list[str]:
    """Return new ids that are in these slots, such as `0-2047`."""
    owned = parse_slots(slots.split())
    ids: Iterable[str] = (new_id(word) for _ in itertools.count())
    return list(itertools.islice((id_ for id_ in ids if slot_of(id_) in owned), count))
