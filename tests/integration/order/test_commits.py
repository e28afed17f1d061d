"""A connection that breaks at a COMMIT leaves unknown what was committed: the service reads, and acts on that."""

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
import pytest_asyncio

from services.order.store import Answer
from shared.refusals import Unavailable
from tests.integration.order.checkpoints import Checkpoints
from tests.integration.order.commits import Cut, Way, breaking_commits
from tests.integration.order.world import World, order_id_of, problem_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMELINE = "SELECT log FROM orders.sagas WHERE order_id = $1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def way(world: World) -> AsyncIterator[Way]:
    """A way to the database that can break."""
    async with breaking_commits(world.order_url) as way:
        yield way


async def steps(world: World, order_id: object) -> list[str]:
    """What the order's saga logged."""
    log = orjson.loads(await world.db.fetchval(TIMELINE, order_id))
    return [f"{entry['step']} {entry['outcome']}" for entry in log]


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("keyed", [True, False])
async def test_start_with_unknown_commit_is_made_once_and_answered(
    world: World, way: Way, cut: Cut, keyed: bool
) -> None:
    customer = await world.customer()
    key = customer.key("place", "k") if keyed else None
    async with world.replica(url=way.url) as replica:
        before, way.cut = way.cuts, cut
        answer = await customer.place(replica, key=key)
        if keyed:
            assert await customer.place(replica, key=key) == answer
    assert (way.cuts - before, problem_of(answer)) == (1, None)
    assert [order["status"] for order in await customer.orders()] == ["PAID"]
    await world.check()


@pytest.mark.parametrize("cut", Cut)
async def test_refusal_with_unknown_commit_is_answered_as_stored(world: World, way: Way, cut: Cut) -> None:
    customer = await world.customer()
    async with world.replica(url=way.url) as replica:
        order_id = await customer.unpaid(replica)
        await replica.checkout.cancel(order_id, None)
        key = customer.key("pay", "k")
        way.cut = cut
        answer = await replica.checkout.pay(order_id, key)
        assert problem_of(answer) == "order-not-payable"
        assert await replica.checkout.pay(order_id, key) == answer
    await world.check()


async def test_start_that_stays_unknown_is_unavailable_and_never_begins(world: World, way: Way) -> None:
    customer = await world.customer()
    async with world.replica(url=way.url, request_deadline_seconds=0.3) as replica:
        with way.always(Cut.BEFORE), pytest.raises(Unavailable):
            await customer.place(replica)
    assert await customer.orders() == []


@pytest.mark.parametrize("cut", Cut)
# 20 units cost more than the account has: refused at the debit, turned round, and rejected in a second commit.
# Before a transition lie the start's two checkpoints, and two for each command.
@pytest.mark.parametrize(("quantity", "end", "checkpoint"), [(1, "PAID", 8), (20, "REJECTED", 8), (20, "REJECTED", 14)])
async def test_transition_with_unknown_commit_is_made_once(
    world: World, way: Way, cut: Cut, quantity: int, end: str, checkpoint: int
) -> None:
    customer = await world.customer(stock=50)
    checkpoints = Checkpoints()
    async with world.replica(checkpoints, url=way.url) as replica:

        async def break_it() -> None:
            way.cut = cut

        checkpoints.at, checkpoints.happens = checkpoint, break_it
        before = way.cuts
        answer = await customer.place(replica, quantity=quantity)
    assert isinstance(answer, Answer)
    assert way.cuts == before + 1
    assert await world.status(order_id_of(answer)) == end
    did = await steps(world, order_id_of(answer))
    assert len(did) == len(set(did)), "the timeline tells everything once"
    await world.check()


@pytest.mark.parametrize("cut", Cut)
async def test_payment_with_unknown_outcome_is_debited_once(world: World, way: Way, cut: Cut) -> None:
    customer = await world.customer()
    async with world.replica(url=way.url) as replica:
        order_id = await customer.unpaid(replica)
        way.cut = cut
        assert problem_of(await replica.checkout.pay(order_id, None)) is None
    assert await world.status(order_id) == "PAID"
    await world.check()


@pytest.mark.parametrize("cut", Cut)
async def test_every_order_of_a_batch_with_unknown_commit_is_made_once(world: World, way: Way, cut: Cut) -> None:
    customers = [await world.customer() for _ in range(20)]
    async with world.replica(url=way.url) as replica:
        way.cut = cut
        answers = await asyncio.gather(*(customer.place(replica) for customer in customers))
    assert [problem_of(answer) for answer in answers] == [None] * 20
    assert [len(await customer.orders()) for customer in customers] == [1] * 20
    await world.check()
