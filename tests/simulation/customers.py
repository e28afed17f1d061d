"""Who uses the service in a history: customers who buy, pay and cancel, and operators who force. Each remembers what
it was told, and what it was told must be so."""

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
from shared.refusals import Refusal
from tests.simulation.books import demand
from tests.simulation.links import LinkedPool
from tests.simulation.memory.connections import MemoryPool
from tests.simulation.processes import OrderReplica
from tests.simulation.world import World

PATIENCE_SECONDS = 12.0
TRIES_MAX = 5
# What the events say once an operation was answered with success; a later operation may have added to it.
TOLD = {"place_now": "order.paid.v1", "place_later": "order.placed.v1", "payment": "order.paid.v1"}


@dataclass(slots=True)
class Market:
    """What there is to buy, and with what; drawn small, so that orders meet."""

    products: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    coupons: list[tuple[str, str]] = field(default_factory=list)  # id and owner
    # A duel is about one unpaid order at a time: payments that fail for want of money, charges, cancellations.
    duel: bool = False

    @classmethod
    async def opened(cls, world: World) -> "Market":
        """Put products, coupons and accounts into the databases."""
        dice = world.dice
        market = cls(duel=dice.random() < 0.4)
        for product_id in ("pen", "ink"):
            world.products.create_product(product_id, product_id, dice.choice((0, 300, 1000)), dice.randint(1, 4))
            market.products.append(product_id)
        for user_id in ("ann", "bob"):
            market.users.append(user_id)
            if dice.random() < 0.8:
                await charge(world, user_id, 100 if market.duel else dice.choice((100, 900, 5000)))
        for number in range(dice.randint(0, 2)):
            coupon_id, owner = f"coupon-{number}", dice.choice(market.users)
            world.coupons.create_coupon(coupon_id, owner, "fixed", dice.choice((50, 2000)), None, 0, None)
            market.coupons.append((coupon_id, owner))
        for database in (world.products, world.coupons):
            database.commit()
        return market


async def charge(world: World, user_id: str, amount: int) -> None:
    """Pay into an account, by the balance service's own rules."""
    async with MemoryPool(world.balances).transaction() as db:
        await _charge(db, UserId(user_id), amount, None)


class Customer:
    """One customer's order: placed, and then paid or cancelled, perhaps both at once and more than once."""

    def __init__(self, world: World, market: Market, name: str, pick_replica: Callable[[], OrderReplica]) -> None:
        self._world = world
        self._market = market
        self._name = name
        self._pick_replica = pick_replica
        self._keys = 0
        self.orders: set[UUID] = set()

    async def live(self) -> None:
        """Place an order, and do this and that with it."""
        dice = self._world.dice
        await asyncio.sleep(dice.random() * 6)
        order_id = await self._place()
        if order_id is None:
            return
        for _ in range(dice.randint(2, 8) if self._market.duel else dice.randint(0, 4)):
            await asyncio.sleep(dice.random() * dice.choice((0.1, 1 if self._market.duel else 5)))
            await self._act(OrderId(order_id))

    async def _place(self) -> UUID | None:
        dice = self._world.dice
        user_id, coupon_id = dice.choice(self._market.users), None
        if self._market.coupons and dice.random() < 0.7:
            coupon_id, owner = dice.choice(self._market.coupons)
            user_id = owner if dice.random() < 0.9 else user_id
        count = dice.randint(1, len(self._market.products))
        lines = [(product, dice.randint(1, 2)) for product in dice.sample(self._market.products, count)]
        pay_now = dice.random() < (0.1 if self._market.duel else 0.5)
        kind = "place_now" if pay_now else "place_later"
        key = self._key("place", user_id)
        answers = await self._insist(
            kind, lambda checkout: checkout.place(user_id, lines, coupon_id, pay_now=pay_now, key=key), key
        )
        return UUID(orjson.loads(answers.body)["order_id"]) if answers else None

    async def _act(self, order_id: OrderId) -> None:
        dice = self._world.dice
        acts_rare = () if self._market.duel and dice.random() < 0.7 else ("cancel", "pay and cancel")
        act = dice.choice(("pay", "pay", "pay", "pay twice", "charge", *acts_rare))
        self._world.note(f"{self._name} {act} {order_id}")
        if act == "charge":
            await charge(self._world, dice.choice(self._market.users), dice.choice((100, 100, 5000)))
            return
        pays = {"pay": 1, "pay twice": 2, "pay and cancel": 1}.get(act, 0)
        calls = [self._pay(order_id) for _ in range(pays)]
        if "cancel" in act:
            calls.append(self._cancel(order_id))
        await asyncio.gather(*calls)

    async def _pay(self, order_id: OrderId) -> Answer | None:
        key = self._key("payment", str(order_id))
        return await self._insist("payment", lambda checkout: checkout.pay(order_id, key), key)

    async def _cancel(self, order_id: OrderId) -> Answer | None:
        return await self._insist("cancel", lambda checkout: checkout.cancel(order_id, None), None)

    def _key(self, operation: str, scope: str) -> KeyClaim | None:
        self._keys += 1
        if self._world.dice.random() < 0.3 and operation != "place":
            return None
        return KeyClaim(scope, operation, f"{self._name}-{self._keys}", b"0" * 32)

    async def _insist(
        self, operation: str, use_case: Callable[[Checkout], Awaitable[Answer | Pending]], key: KeyClaim | None
    ) -> Answer | None:
        """Ask until there is a final answer, here and there, sometimes at two replicas at once."""
        final: set[bytes] = set()
        for _ in range(TRIES_MAX):
            asked = [self._ask(use_case) for _ in range(2 if self._world.dice.random() < 0.15 and key else 1)]
            told = [answer for answer in await asyncio.gather(*asked) if isinstance(answer, Answer)]
            for answer in told:
                self._check(operation, answer)
                final.add(answer.body)
            demand(not (key and len(final) > 1), "one key was answered in two ways: {}", final)
            if told:
                return told[0]
            await asyncio.sleep(self._world.dice.random() * 2)
        return None

    async def _ask(self, use_case: Callable[[Checkout], Awaitable[Answer | Pending]]) -> Any:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._pick_replica().call(use_case)
        except TimeoutError:
            return None

    def _check(self, operation: str, answer: Answer) -> None:
        """Compare an answer with the books at this moment; what was told must have happened."""
        body = orjson.loads(answer.body)
        order_id = UUID(body["order_id"])
        order = self._world.orders.orders.get(order_id)
        demand(order is not None, "the answer {} is about no order", body)
        assert order is not None
        self.orders.add(order_id)
        events = {row["type"] for row in self._world.orders.outbox if row["order_id"] == order_id}
        if answer.status >= 400:
            rejected = order["status"] == "REJECTED"
            demand(operation not in ("place_now", "place_later") or rejected, "told {}, but it is {}", body, order)
        elif operation == "cancel":
            demand(order["status"] in ("CANCELLED", "REFUNDED"), "told {}, but it is {}", body, order)
        else:
            demand(TOLD[operation] in events, "{} told {}, but the events are {}", operation, body, events)


async def operate(world: World) -> None:
    """Force compensation of a saga now and then, as an operator would."""
    pool = LinkedPool(world, world.orders)
    while True:
        await asyncio.sleep(0.2)
        # Sometimes one that has ended: the operator read the list a while ago.
        sagas = list(world.orders.live() if world.dice.random() < 0.8 else world.orders.sagas)
        if not sagas or not world.happens("operator_forces"):
            continue
        saga_id, who = world.dice.choice(sagas)["saga_id"], acts.Who("operator", "because")
        try:
            if world.dice.random() < 0.2:
                await acts.retry(pool, [saga_id], who)
            else:
                await acts.force(pool, saga_id, who)
        except Refusal:
            world.note("operator refused")
