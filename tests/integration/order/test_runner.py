"""A runner never decides on a doubt, gives up nothing, and tells operators what does not get on."""

import asyncio
import random

import orjson
import pytest

from services.order.checkout import Pending
from services.order.engine.runner import TRIES_BEFORE_STUCK
from services.order.saga import Participant
from services.order.store import Answer
from services.order.timeline import timeline
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.order.checkpoints import Checkpoints, Losses
from tests.integration.order.world import PATIENCE_SECONDS, World, order_id_of, problem_of, sweeping

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = 2  # checkpoints of a start, before and after its commit
SAGA = "SELECT * FROM orders.sagas WHERE order_id = $1 ORDER BY saga_id DESC LIMIT 1"


def nowhere() -> str:
    """The address of nobody."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize("seed", range(5))
async def test_lost_messages_are_repeated_and_applied_once(world: World, seed: int) -> None:
    dice = random.Random(seed)
    losses = Losses(lost=lambda checkpoint: START < checkpoint < 60 and dice.random() < 0.5)
    customer, poor = await world.customer(), await world.customer(balance=0)
    async with world.replica(losses) as replica:
        assert problem_of(await customer.place(replica)) is None
        losses.passed = -START
        assert problem_of(await poor.place(replica)) == "insufficient-balance"
        losses.passed = -START
        order_id = (await customer.orders())[0]["order_id"]
        assert problem_of(await replica.checkout.cancel(order_id, None)) is None
    assert await world.status(order_id) == "REFUNDED"
    await world.check()


async def test_timeline_shows_an_unknown_outcome_once_despite_repeats(world: World) -> None:
    customer = await world.customer()
    async with world.replica(Losses(lost=lambda checkpoint: START < checkpoint <= START + 5)) as replica:
        answer = await customer.place(replica)
    assert isinstance(answer, Answer)
    row = await world.db.fetchrow(SAGA, order_id_of(answer))
    assert row is not None
    items = timeline([{**dict(row), "log": orjson.loads(row["log"])}])
    told = [(item["step"], item["outcome"]) for item in items]
    assert told[:3] == [("place_now", "started"), ("hold_stock", "unknown"), ("hold_stock", "applied")]
    assert told.count(("hold_stock", "unknown")) == 1


async def test_failing_undo_makes_its_saga_stuck_while_other_undos_run(world: World) -> None:
    customer = await world.customer()
    async with world.replica() as helper:
        order_id = await customer.paid(helper)
    async with world.replica(urls={Participant.PRODUCT: nowhere()}, request_deadline_seconds=0.05) as replica:
        pending = await replica.checkout.cancel(order_id, None)
        assert isinstance(pending, Pending)

        async def stuck() -> bool:
            row = await world.db.fetchrow(SAGA, order_id)
            assert row is not None
            return bool(row["stuck"])

        await eventually(stuck, PATIENCE_SECONDS, f"{TRIES_BEFORE_STUCK} tries")
        row = await world.db.fetchrow(SAGA, order_id)
        assert row is not None
        assert (row["status"], row["target"]) == ("COMPENSATING", "REFUNDED")
        assert await world.status(order_id) == "PAID"
        assert (await world.coupon.get(f"/v1/coupons/{customer.coupon}"))["status"] == "AVAILABLE"
        assert (await world.balance.get(f"/v1/accounts/{customer.user}"))["balance"] == 1000
        assert (await world.product.get(f"/v1/products/{customer.product}"))["stock"] == 4
        assert replica.registry.count == 1
    async with world.replica() as healthy, sweeping(healthy):
        await world.settled()
    row = await world.db.fetchrow(SAGA, order_id)
    assert row is not None
    assert (row["status"], row["stuck"]) == ("COMPENSATED", False)
    assert await world.status(order_id) == "REFUNDED"
    await world.check()


async def test_step_waits_for_an_absent_participant_and_is_never_undone(world: World) -> None:
    customer = await world.customer()
    async with world.replica(urls={Participant.BALANCE: nowhere()}, request_deadline_seconds=0.05) as replica:
        pending = await customer.place(replica)
        assert isinstance(pending, Pending)
        tried = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, tried.set)
        await tried.wait()  # hundreds of tries
        row = await world.db.fetchrow(SAGA, pending.order.order_id)
        assert row is not None
        assert (row["status"], row["stuck"]) == ("RUNNING", False)
    async with world.replica() as healthy, sweeping(healthy):
        await world.settled()
    assert await world.status(pending.order.order_id) == "PAID"
    await world.check()


async def test_runner_drops_a_saga_that_another_process_took_over(world: World) -> None:
    customer = await world.customer()
    async with (
        world.replica(urls={Participant.BALANCE: nowhere()}, request_deadline_seconds=0.05) as replica,
        world.replica() as other,
    ):
        pending = await customer.place(replica)
        assert isinstance(pending, Pending)
        assert replica.registry.count == 1
        async with sweeping(other):
            await world.settled()

        async def let_go() -> bool:
            return replica.registry.count == 0

        await eventually(let_go, PATIENCE_SECONDS, "the runner to let go")
    assert await world.status(pending.order.order_id) == "PAID"
    await world.check()


async def test_stopping_process_releases_waiting_clients(world: World) -> None:
    customer = await world.customer()
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    async with world.replica(Checkpoints(at=START, happens=wait)) as replica:
        placing = asyncio.create_task(customer.place(replica))

        async def runs() -> bool:
            return len(replica.registry._tasks) == 1

        await eventually(runs, PATIENCE_SECONDS, "the saga")
        replica.registry.release_waiters()
        assert isinstance(await placing, Pending)
        go_on.set()
        await replica.registry.drain(PATIENCE_SECONDS)
        assert replica.registry.count == 0
    assert [order["status"] for order in await customer.orders()] == ["PAID"]
    await world.check()


async def test_a_client_that_hangs_up_does_not_stop_its_order(world: World) -> None:
    customer = await world.customer()
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    async with world.replica(Checkpoints(at=START, happens=wait)) as replica:
        placing = asyncio.create_task(customer.place(replica))

        async def runs() -> bool:
            return len(replica.registry._tasks) == 1

        await eventually(runs, PATIENCE_SECONDS, "the saga")
        placing.cancel()
        go_on.set()
        await world.settled()
    assert [order["status"] for order in await customer.orders()] == ["PAID"]
    await world.check()
