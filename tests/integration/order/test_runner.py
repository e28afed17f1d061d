"""A runner never guesses an unknown outcome, never gives up, and reports sagas that don't progress."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from services.order.checkout import Pending
from services.order.engine.runner import TRIES_BEFORE_STUCK
from services.order.process import OrderProcess
from services.order.saga import Participant
from services.order.store import Answer
from services.order.timeline import timeline
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.order.checkpoints import Checkpoints, Losses
from tests.integration.order.order_service import (
    PATIENCE_SECONDS,
    Customer,
    OrderService,
    order_id_of,
    problem_of,
    sweeping,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = 2  # checkpoints of a start, before and after its commit
SAGA = "SELECT * FROM orders.sagas WHERE order_id = $1 ORDER BY saga_id DESC LIMIT 1"


def nowhere() -> str:
    """Return an address at which nothing listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize("seed", range(5))
async def test_lost_messages_are_repeated_and_applied_once(service: OrderService, seed: int) -> None:
    rng = random.Random(seed)
    losses = Losses(lost=lambda checkpoint: START < checkpoint < 60 and rng.random() < 0.5)
    customer, poor = await service.customer(), await service.customer(balance=0)
    async with service.replica(losses) as replica:
        assert problem_of(await customer.place(replica)) is None
        losses.passed = -START
        assert problem_of(await poor.place(replica)) == "insufficient-balance"
        losses.passed = -START
        order_id = (await customer.orders())[0]["order_id"]
        assert problem_of(await replica.checkout.cancel(order_id, None)) is None
    assert await service.status(order_id) == "REFUNDED"
    await service.check()


async def test_timeline_shows_an_unknown_outcome_once_despite_repeats(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica(Losses(lost=lambda checkpoint: START < checkpoint <= START + 5)) as replica:
        answer = await customer.place(replica)
    assert isinstance(answer, Answer)
    row = await service.db.fetchrow(SAGA, order_id_of(answer))
    assert row is not None
    items = timeline([{**dict(row), "log": orjson.loads(row["log"])}])
    steps = [(item["step"], item["outcome"]) for item in items]
    assert steps[:3] == [("place_now", "started"), ("hold_stock", "unknown"), ("hold_stock", "applied")]
    assert steps.count(("hold_stock", "unknown")) == 1


async def test_failing_undo_makes_its_saga_stuck_while_other_undos_run(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica() as helper:
        order_id = await customer.paid(helper)
    async with service.replica(urls={Participant.PRODUCT: nowhere()}, request_deadline_seconds=0.05) as replica:
        pending = await replica.checkout.cancel(order_id, None)
        assert isinstance(pending, Pending)

        async def stuck() -> bool:
            row = await service.db.fetchrow(SAGA, order_id)
            assert row is not None
            return bool(row["stuck"])

        await eventually(stuck, PATIENCE_SECONDS, f"{TRIES_BEFORE_STUCK} tries")
        row = await service.db.fetchrow(SAGA, order_id)
        assert row is not None
        assert (row["status"], row["target"]) == ("COMPENSATING", "REFUNDED")
        assert await service.status(order_id) == "PAID"
        assert (await service.coupon.get(f"/v1/coupons/{customer.coupon}"))["status"] == "AVAILABLE"
        assert (await service.balance.get(f"/v1/accounts/{customer.user}"))["balance"] == 1000
        assert (await service.product.get(f"/v1/products/{customer.product}"))["stock"] == 4
        assert replica.registry.count == 1
    async with service.replica() as healthy, sweeping(healthy):
        await service.until_idle()
    row = await service.db.fetchrow(SAGA, order_id)
    assert row is not None
    assert (row["status"], row["stuck"]) == ("COMPENSATED", False)
    assert await service.status(order_id) == "REFUNDED"
    await service.check()


async def test_step_waits_for_an_absent_participant_and_is_never_undone(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica(urls={Participant.BALANCE: nowhere()}, request_deadline_seconds=0.05) as replica:
        pending = await customer.place(replica)
        assert isinstance(pending, Pending)
        tried = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, tried.set)
        await tried.wait()  # hundreds of tries
        row = await service.db.fetchrow(SAGA, pending.order.order_id)
        assert row is not None
        assert (row["status"], row["stuck"]) == ("RUNNING", False)
    async with service.replica() as healthy, sweeping(healthy):
        await service.until_idle()
    assert await service.status(pending.order.order_id) == "PAID"
    await service.check()


async def test_runner_drops_a_saga_that_another_process_took_over(service: OrderService) -> None:
    customer = await service.customer()
    async with (
        service.replica(urls={Participant.BALANCE: nowhere()}, request_deadline_seconds=0.05) as replica,
        service.replica() as other,
    ):
        pending = await customer.place(replica)
        assert isinstance(pending, Pending)
        assert replica.registry.count == 1
        async with sweeping(other):
            await service.until_idle()

        async def let_go() -> bool:
            return replica.registry.count == 0

        await eventually(let_go, PATIENCE_SECONDS, "the end of the runner")
    assert await service.status(pending.order.order_id) == "PAID"
    await service.check()


@asynccontextmanager
async def held_up(
    service: OrderService, customer: Customer
) -> AsyncIterator[tuple[OrderProcess, "asyncio.Task[Answer | Pending]", asyncio.Event]]:
    """Yield a replica whose saga waits at its start, the request that waits for it, and the event that ends both."""
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    async with service.replica(Checkpoints(at=START, happens=wait)) as replica:
        placing = asyncio.create_task(customer.place(replica))

        async def runs() -> bool:
            return len(replica.registry._tasks) == 1

        await eventually(runs, PATIENCE_SECONDS, "the saga")
        yield replica, placing, go_on


async def test_stopping_process_releases_waiting_clients(service: OrderService) -> None:
    customer = await service.customer()
    async with held_up(service, customer) as (replica, placing, go_on):
        replica.registry.release_waiters()
        assert isinstance(await placing, Pending)
        go_on.set()
        await replica.registry.drain(PATIENCE_SECONDS)
        assert replica.registry.count == 0
    assert [order["status"] for order in await customer.orders()] == ["PAID"]
    await service.check()


async def test_a_client_that_hangs_up_does_not_stop_its_order(service: OrderService) -> None:
    customer = await service.customer()
    async with held_up(service, customer) as (_, placing, go_on):
        placing.cancel()
        go_on.set()
        await service.until_idle()
    assert [order["status"] for order in await customer.orders()] == ["PAID"]
    await service.check()
