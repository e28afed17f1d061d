"""If a replica fails between any two of its commands and commits, its sagas end and the books balance.

Each flow has a checkpoint before and after every command and every commit. The test runs the flow once per checkpoint;
a short run, as by default, takes every third one, and another third of each flow. `make points` takes all. There the
replica dies, is paused until another one has done its work, or is overruled by an operator. So every state in
which a saga can be left is the start of one run.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from services.order.domain import OrderId
from services.order.engine.registry import Lane
from services.order.process import OrderProcess
from tests.infrastructure.sagas import LIVE
from tests.infrastructure.waiting import eventually
from tests.integration.order.checkpoints import Checkpoints
from tests.integration.order.order_service import PATIENCE_SECONDS, Customer, OrderService, beside, sweeping

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORCE = """
    UPDATE orders.sagas AS s
    SET status = 'COMPENSATING', target = CASE kind WHEN 'pay' THEN 'CANCELLED' ELSE 'REJECTED' END
    FROM orders.orders AS o WHERE o.order_id = s.order_id AND o.user_id = $1 AND s.status = 'RUNNING'
"""

ALL = bool(os.environ.get("POINTS_ALL"))

Act = Callable[[Customer, OrderProcess, OrderId | None], Awaitable[Any]]
Prepare = Callable[[Customer, OrderProcess], Awaitable[OrderId]]


@dataclass(frozen=True, slots=True)
class Flow:
    """A request of a customer with given stock and money; the order's end if the request never began, and if it did."""

    act: Act
    ends: tuple[str | None, str]
    forced: str | None = None
    prepare: Prepare | None = None
    balance: int = 1000
    stock: int = 5


async def buy(customer: Customer, replica: OrderProcess, _: OrderId | None) -> Any:
    return await customer.place(replica)


async def buy_with_a_bad_coupon(customer: Customer, replica: OrderProcess, _: OrderId | None) -> Any:
    return await customer.place(replica, coupon="no such coupon")


async def reserve(customer: Customer, replica: OrderProcess, _: OrderId | None) -> Any:
    return await customer.place(replica, now=False)


async def reserve_with_a_bad_coupon(customer: Customer, replica: OrderProcess, _: OrderId | None) -> Any:
    return await customer.place(replica, now=False, coupon="no such coupon")


async def pay(_: Customer, replica: OrderProcess, order_id: OrderId | None) -> Any:
    assert order_id is not None
    return await replica.checkout.pay(order_id, None)


async def cancel(_: Customer, replica: OrderProcess, order_id: OrderId | None) -> Any:
    assert order_id is not None
    return await replica.checkout.cancel(order_id, None)


async def expire(customer: Customer, replica: OrderProcess, order_id: OrderId | None) -> Any:
    assert order_id is not None
    await customer.service.let_expire(order_id)
    return await replica.checkout.expire([order_id], Lane.COUPON)


FLOWS = {
    "an order": Flow(buy, (None, "PAID"), forced="REJECTED"),
    "an order out of stock": Flow(buy, (None, "REJECTED"), forced="REJECTED", stock=0),
    "an order with a bad coupon": Flow(buy_with_a_bad_coupon, (None, "REJECTED"), forced="REJECTED"),
    "an order that can't be paid": Flow(buy, (None, "REJECTED"), forced="REJECTED", balance=0),
    "an order to pay later": Flow(reserve, (None, "PENDING_PAYMENT"), forced="REJECTED"),
    "one with a bad coupon": Flow(reserve_with_a_bad_coupon, (None, "REJECTED"), forced="REJECTED"),
    "a payment": Flow(pay, ("PENDING_PAYMENT", "PAID"), forced="CANCELLED", prepare=Customer.unpaid),
    "a payment that is refused": Flow(
        pay, ("PENDING_PAYMENT", "PENDING_PAYMENT"), forced="CANCELLED", prepare=Customer.unpaid, balance=0
    ),
    "a cancellation": Flow(cancel, ("PENDING_PAYMENT", "CANCELLED"), prepare=Customer.unpaid),
    "a refund": Flow(cancel, ("PAID", "REFUNDED"), prepare=Customer.paid),
    "an expiry": Flow(expire, ("PENDING_PAYMENT", "EXPIRED"), prepare=Customer.unpaid),
}


@dataclass(slots=True)
class Run:
    """One run of a flow, with an event at one of its checkpoints."""

    service: OrderService
    helper: OrderProcess
    flow: Flow
    checkpoints: Checkpoints
    customer: Customer
    asked: "asyncio.Task[Any]"
    overruled: str | None = None

    async def ends(self, *others: asyncio.Event) -> None:
        """Wait until the request is answered and no saga is live, or until one of `others` is set."""

        async def ended() -> bool:
            if any(event.is_set() for event in others):
                return True
            return self.asked.done() and await self.service.db.fetchval(LIVE) == 0

        await eventually(ended, PATIENCE_SECONDS, "the end")

    async def status(self) -> str | None:
        """Return the order's final status; None if there is no order."""
        orders = await self.customer.orders()
        assert len(orders) <= 1
        return orders[0]["status"] if orders else None


@asynccontextmanager
async def a_run(
    service: OrderService, helper: OrderProcess, flow: Flow, checkpoints: Checkpoints
) -> AsyncIterator[Run]:
    """A customer's request to a separate replica; the helper has prepared what it needs."""
    customer = await service.customer(balance=flow.balance, stock=flow.stock)
    order_id = await flow.prepare(customer, helper) if flow.prepare else None
    async with service.replica(checkpoints) as replica, beside(flow.act(customer, replica, order_id)) as asked:
        yield Run(service, helper, flow, checkpoints, customer, asked)


async def at_every_moment(service: OrderService, flow: Flow, once: Callable[[Run], Awaitable[None]]) -> None:
    """Run the flow once for each of its checkpoints, until one run has fewer."""
    first, step = (0, 1) if ALL else (list(FLOWS.values()).index(flow) % 3, 3)
    async with service.replica() as helper:
        for number in count(first, step):
            checkpoints = Checkpoints(at=number)
            async with a_run(service, helper, flow, checkpoints) as run:
                await once(run)
            async with sweeping(helper):
                await service.until_idle()
            assert await run.status() == (run.overruled or flow.ends[checkpoints.passed > 1])
            if not checkpoints.reached:
                assert number >= 6, "a start, a command and a commit, each before and after"
                break
    await service.check()


@pytest.mark.parametrize("name", FLOWS)
async def test_sagas_of_a_dead_replica_are_ended_by_another(service: OrderService, name: str) -> None:
    async def once(run: Run) -> None:
        dead = asyncio.Event()

        async def die() -> None:
            dead.set()
            await asyncio.get_running_loop().create_future()

        run.checkpoints.happens = die
        await run.ends(dead)

    await at_every_moment(service, FLOWS[name], once)


@pytest.mark.parametrize("name", FLOWS)
async def test_replica_that_resumes_after_a_take_over_does_no_harm(service: OrderService, name: str) -> None:
    async def once(run: Run) -> None:
        paused, go_on = asyncio.Event(), asyncio.Event()

        async def pause() -> None:
            paused.set()
            await go_on.wait()

        run.checkpoints.happens = pause
        await run.ends(paused)
        async with sweeping(run.helper):
            await run.service.until_idle()
        go_on.set()
        await run.ends()

    await at_every_moment(service, FLOWS[name], once)


@pytest.mark.parametrize("name", [name for name, flow in FLOWS.items() if flow.forced])
async def test_saga_forced_by_an_operator_undoes_everything(service: OrderService, name: str) -> None:
    flow = FLOWS[name]

    async def once(run: Run) -> None:
        async def force() -> None:
            if (await run.service.db.execute(FORCE, run.customer.user)) != "UPDATE 0":
                run.overruled = flow.forced

        run.checkpoints.happens = force
        await run.ends()

    await at_every_moment(service, flow, once)
