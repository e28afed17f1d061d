"""Simulates the users of a history: customers who buy, pay and cancel, and operators who force sagas.

Customers check each answer against the databases.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from services.balance.api import _charge
from services.balance.domain import UserId
from services.order.admin import acts
from services.order.checkout import Checkout, Pending
from services.order.domain import OrderId
from services.order.engine.operations import KeyClaim
from services.order.store import Answer
from shared.refusals import Refusal, Unavailable
from tests.simulation.invariants import demand
from tests.simulation.links import LinkedPool
from tests.simulation.memory.connections import MemoryPool
from tests.simulation.processes import OrderReplica
from tests.simulation.world import World

REQUEST_TIMEOUT_SECONDS = 12.0
TRIES_MAX = 5
# The event that an order has after each successful operation. Later operations may have added others.
# By the number of product shards: every shard has at least one, and of two shards, one has two.
PRODUCTS = {1: ("pen", "ink"), 2: ("pen", "ink", "mug"), 3: ("pen", "ink", "hat")}
SUCCESS_EVENTS = {"place_now": "order.paid.v1", "place_later": "order.placed.v1", "payment": "order.paid.v1"}


@dataclass(slots=True)
class Market:
    """The products, accounts and coupons of a history: few, so that orders compete for them."""

    products: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    coupons: list[tuple[str, str]] = field(default_factory=list)  # id and owner
    # A contested market has little money. Its customers pay the same unpaid order again and again, charge and cancel.
    contested: bool = False

    @classmethod
    async def opened(cls, world: World) -> "Market":
        """Create the products, coupons and accounts, and return the market."""
        rng = world.rng
        market = cls(contested=rng.random() < 0.4)
        for product_id in PRODUCTS[len(world.products)]:
            database = world.products[world.product_shards.place_of(product_id)]
            database.create_product(product_id, product_id, rng.choice((0, 300, 1000)), rng.randint(1, 4))
            market.products.append(product_id)
        for user_id in ("ann", "bob"):
            market.users.append(user_id)
            if rng.random() < 0.8:
                await charge(world, user_id, 100 if market.contested else rng.choice((100, 900, 5000)))
        for number in range(rng.randint(0, 2)):
            coupon_id, owner = f"coupon-{number}", rng.choice(market.users)
            world.coupons.create_coupon(coupon_id, owner, "fixed", rng.choice((50, 2000)), None, 0, None)
            market.coupons.append((coupon_id, owner))
        for participant in world.participants.values():
            participant.commit()
        return market


async def charge(world: World, user_id: str, amount: int) -> None:
    """Charge an account by the balance service's own code."""
    async with MemoryPool(world.balances).transaction() as db:
        await _charge(db, UserId(user_id), amount, None)


class Customer:
    """Places an order, then pays and cancels it, sometimes repeatedly and sometimes concurrently."""

    def __init__(self, world: World, market: Market, name: str, pick_replica: Callable[[], OrderReplica]) -> None:
        self._world = world
        self._market = market
        self._name = name
        self._pick_replica = pick_replica
        self._keys = 0
        self.orders: set[UUID] = set()

    async def run(self) -> None:
        """Place an order and perform random operations on it."""
        rng = self._world.rng
        await asyncio.sleep(rng.random() * 6)
        order_id = await self._place()
        if order_id is None:
            return
        for _ in range(rng.randint(2, 8) if self._market.contested else rng.randint(0, 4)):
            await asyncio.sleep(rng.random() * rng.choice((0.1, 1 if self._market.contested else 5)))
            await self._act(OrderId(order_id))

    async def _place(self) -> UUID | None:
        rng = self._world.rng
        user_id, coupon_id = rng.choice(self._market.users), None
        if self._market.coupons and rng.random() < 0.7:
            coupon_id, owner = rng.choice(self._market.coupons)
            user_id = owner if rng.random() < 0.9 else user_id
        count = rng.randint(1, len(self._market.products))
        lines = [(product, rng.randint(1, 2)) for product in rng.sample(self._market.products, count)]
        pay_now = rng.random() < (0.1 if self._market.contested else 0.5)
        kind = "place_now" if pay_now else "place_later"
        key = self._key("place", user_id)
        answers = await self._retry_until_answered(
            kind, lambda checkout: checkout.place(user_id, lines, coupon_id, pay_now=pay_now, key=key), key
        )
        return UUID(orjson.loads(answers.body)["order_id"]) if answers else None

    async def _act(self, order_id: OrderId) -> None:
        rng = self._world.rng
        rare_actions = () if self._market.contested and rng.random() < 0.7 else ("cancel", "pay and cancel")
        act = rng.choice(("pay", "pay", "pay", "pay twice", "charge", *rare_actions))
        self._world.note(f"{self._name} {act} {order_id}")
        if act == "charge":
            await charge(self._world, rng.choice(self._market.users), rng.choice((100, 100, 5000)))
            return
        pays = {"pay": 1, "pay twice": 2, "pay and cancel": 1}.get(act, 0)
        calls = [self._pay(order_id) for _ in range(pays)]
        if "cancel" in act:
            calls.append(self._cancel(order_id))
        await asyncio.gather(*calls)

    async def _pay(self, order_id: OrderId) -> Answer | None:
        key = self._key("payment", str(order_id))
        return await self._retry_until_answered("payment", lambda checkout: checkout.pay(order_id, key), key)

    async def _cancel(self, order_id: OrderId) -> Answer | None:
        return await self._retry_until_answered("cancel", lambda checkout: checkout.cancel(order_id, None), None)

    def _key(self, operation: str, scope: str) -> KeyClaim | None:
        self._keys += 1
        if self._world.rng.random() < 0.3 and operation != "place":
            return None
        return KeyClaim(scope, operation, f"{self._name}-{self._keys}", b"0" * 32)

    async def _retry_until_answered(
        self, operation: str, use_case: Callable[[Checkout], Awaitable[Answer | Pending]], key: KeyClaim | None
    ) -> Answer | None:
        """Repeat a call at random replicas, sometimes at two; return its final answer, or None without one."""
        final: set[bytes] = set()
        for _ in range(TRIES_MAX):
            calls = [self._ask(use_case) for _ in range(2 if self._world.rng.random() < 0.15 and key else 1)]
            answers = [answer for answer in await asyncio.gather(*calls) if isinstance(answer, Answer)]
            for answer in answers:
                self._check(operation, answer)
                final.add(answer.body)
            demand(not (key and len(final) > 1), "one key has two different answers: {}", final)
            if answers:
                return answers[0]
            await asyncio.sleep(self._world.rng.random() * 2)
        return None

    async def _ask(self, use_case: Callable[[Checkout], Awaitable[Answer | Pending]]) -> Any:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                return await self._pick_replica().call(use_case)
        except TimeoutError:
            return None

    def _check(self, operation: str, answer: Answer) -> None:
        """Compare an answer with the databases: what it says must have happened."""
        body = orjson.loads(answer.body)
        order_id = UUID(body["order_id"])
        order = self._world.orders.orders.get(order_id)
        demand(order is not None, "the answer {} is about no order", body)
        assert order is not None
        self.orders.add(order_id)
        events = {row["type"] for row in self._world.orders.outbox if row["order_id"] == order_id}
        if answer.status >= 400:
            rejected = order["status"] == "REJECTED"
            demand(
                operation not in ("place_now", "place_later") or rejected,
                "answered {}, but the order is {}",
                body,
                order,
            )
        elif operation == "cancel":
            demand(order["status"] in ("CANCELLED", "REFUNDED"), "answered {}, but the order is {}", body, order)
        else:
            demand(
                SUCCESS_EVENTS[operation] in events, "{} answered {}, but the events are {}", operation, body, events
            )


async def operate(world: World) -> None:
    """At random times, force or retry a random saga as an operator. Never returns."""
    pool = LinkedPool(world, world.orders)
    while True:
        await asyncio.sleep(0.2)
        # Sometimes one that has ended: the operator's list of sagas is old.
        sagas = list(world.orders.live() if world.rng.random() < 0.8 else world.orders.sagas)
        if not sagas or not world.happens("operator_forces"):
            continue
        saga_id, who = world.rng.choice(sagas)["saga_id"], acts.Who("operator", "because")
        try:
            if world.rng.random() < 0.2:
                await acts.retry(pool, [saga_id], who)
            else:
                await acts.force(pool, saga_id, who)
        except (Refusal, Unavailable):
            world.note("operator refused")
