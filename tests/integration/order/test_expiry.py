"""Orders that are not paid in time are closed once, by the first replica that finds them."""

import asyncio

import pytest

from services.order.engine.registry import Lane
from services.order.store import Answer
from tests.infrastructure.waiting import eventually
from tests.integration.order.checkpoints import Checkpoints, Losses
from tests.integration.order.order_service import PATIENCE_SECONDS, OrderService, beside, order_id_of, problem_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNPAID = "SELECT count(*) FROM orders.orders WHERE status = 'PENDING_PAYMENT' AND expires_at <= clock_timestamp()"


async def nothing_is_due(service: OrderService) -> None:
    async def none() -> bool:
        return bool(await service.db.fetchval(UNPAID) == 0)

    await eventually(none, PATIENCE_SECONDS, "the expiry of all that is due")


async def test_two_replicas_expire_each_due_order_once_and_no_other(service: OrderService) -> None:
    # An eighth of the capacity is for the expiry of orders with a coupon, another for the others: 7 at a time.
    async with service.replica(sagas_max=56) as one, service.replica(sagas_max=56) as other:
        customers = [await service.customer() for _ in range(25)]
        coupons = ["own" if number % 2 else None for number in range(len(customers))]
        answers = await asyncio.gather(
            *(who.place(one, now=False, coupon=coupon) for who, coupon in zip(customers, coupons, strict=True))
        )
        orders = [order_id_of(answer) for answer in answers if isinstance(answer, Answer)]
        paid, young, due = orders[0], orders[1], orders[2:]
        await one.checkout.pay(paid, None)
        await service.let_expire(paid, *due)
        async with beside(one.expiry.run()), beside(other.expiry.run()):
            await nothing_is_due(service)
            await service.until_idle()
        assert {await service.status(order_id) for order_id in due} == {"EXPIRED"}
        assert await service.status(young) == "PENDING_PAYMENT"
        assert await service.status(paid) == "PAID"
    closings = await service.db.fetchval("SELECT count(*) FROM orders.sagas WHERE kind = 'close'")
    assert closings == len(due)
    await service.check()


async def test_running_payment_wins_against_expiry_unless_it_is_refused(service: OrderService) -> None:
    customer = await service.customer(balance=0)
    paying, go_on = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        paying.set()
        await go_on.wait()

    async with service.replica() as other, service.replica(Checkpoints(at=2, happens=pause)) as replica:
        order_id = await customer.unpaid(other)
        payment = asyncio.create_task(replica.checkout.pay(order_id, None))
        await paying.wait()
        await service.let_expire(order_id)
        assert await other.checkout.expire([order_id], Lane.COUPON) == []
        assert await service.status(order_id) == "PAYING"
        go_on.set()
        assert problem_of(await payment) == "insufficient-balance"
        async with beside(other.expiry.run()):
            await nothing_is_due(service)
            await service.until_idle()
    assert await service.status(order_id) == "EXPIRED"
    await service.check()


async def test_restarted_service_expires_orders_that_became_due_while_it_was_down(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica(payment_timeout_seconds=0.05) as replica:
        order_id = await customer.unpaid(replica)
    async with service.replica() as restarted, beside(restarted.expiry.run()):
        await nothing_is_due(service)

        async def expired() -> bool:
            return await service.status(order_id) == "EXPIRED"

        await eventually(expired, PATIENCE_SECONDS, "the expiry")
    stock = (await service.product.get(f"/v1/products/{customer.product}"))["stock"]
    assert (stock, (await service.coupon.get(f"/v1/coupons/{customer.coupon}"))["status"]) == (5, "AVAILABLE")
    await service.check()


async def test_closing_with_unknown_start_counts_as_begun(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica() as other:
        order_id = await customer.unpaid(other)
    await service.let_expire(order_id)
    async with service.replica(Losses(lost=lambda checkpoint: checkpoint == 2)) as replica:  # after the start's commit
        assert len(await replica.checkout.expire([order_id], Lane.COUPON)) == 1
        await service.until_idle()
    assert await service.status(order_id) == "EXPIRED"
    await service.check()
