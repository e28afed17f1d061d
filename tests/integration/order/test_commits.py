"""If a connection breaks at a COMMIT, its result is unknown: the service reads the rows, and acts on them."""

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
import pytest_asyncio

from services.order.store import Answer
from shared.refusals import Unavailable
from tests.integration.order.checkpoints import Checkpoints
from tests.integration.order.commits import Cut, Way, breaking_commits
from tests.integration.order.order_service import OrderService, order_id_of, problem_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMELINE = "SELECT log FROM orders.sagas WHERE order_id = $1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def way(service: OrderService) -> AsyncIterator[Way]:
    """Open a proxy of the database that can break."""
    async with breaking_commits(service.order_url) as way:
        yield way


async def steps(service: OrderService, order_id: object) -> list[str]:
    """Return the log of the order's saga."""
    log = orjson.loads(await service.db.fetchval(TIMELINE, order_id))
    return [f"{entry['step']} {entry['outcome']}" for entry in log]


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("keyed", [True, False])
async def test_start_with_unknown_commit_is_made_once_and_answered(
    service: OrderService, way: Way, cut: Cut, keyed: bool
) -> None:
    customer = await service.customer()
    key = customer.key("place", "k") if keyed else None
    async with service.replica(url=way.url) as replica:
        before, way.cut = way.cuts, cut
        answer = await customer.place(replica, key=key)
        if keyed:
            assert await customer.place(replica, key=key) == answer
    assert (way.cuts - before, problem_of(answer)) == (1, None)
    assert [order["status"] for order in await customer.orders()] == ["PAID"]
    await service.check()


@pytest.mark.parametrize("cut", Cut)
async def test_refusal_with_unknown_commit_is_answered_as_stored(service: OrderService, way: Way, cut: Cut) -> None:
    customer = await service.customer()
    async with service.replica(url=way.url) as replica:
        order_id = await customer.unpaid(replica)
        await replica.checkout.cancel(order_id, None)
        key = customer.key("pay", "k")
        way.cut = cut
        answer = await replica.checkout.pay(order_id, key)
        assert problem_of(answer) == "order-not-payable"
        assert await replica.checkout.pay(order_id, key) == answer
    await service.check()


async def test_start_that_stays_unknown_is_unavailable_and_never_begins(service: OrderService, way: Way) -> None:
    customer = await service.customer()
    async with service.replica(url=way.url, request_deadline_seconds=0.3) as replica:
        with way.always(Cut.BEFORE), pytest.raises(Unavailable):
            await customer.place(replica)
    assert await customer.orders() == []


@pytest.mark.parametrize("cut", Cut)
# 20 units cost more than the account has: the debit is refused, the saga compensates, and a second commit rejects.
# Before a transition lie the start's two checkpoints, and two for each command.
@pytest.mark.parametrize(("quantity", "end", "checkpoint"), [(1, "PAID", 8), (20, "REJECTED", 8), (20, "REJECTED", 14)])
async def test_transition_with_unknown_commit_is_made_once(
    service: OrderService, way: Way, cut: Cut, quantity: int, end: str, checkpoint: int
) -> None:
    customer = await service.customer(stock=50)
    checkpoints = Checkpoints()
    async with service.replica(checkpoints, url=way.url) as replica:

        async def break_it() -> None:
            way.cut = cut

        checkpoints.at, checkpoints.happens = checkpoint, break_it
        before = way.cuts
        answer = await customer.place(replica, quantity=quantity)
    assert isinstance(answer, Answer)
    assert way.cuts == before + 1
    assert await service.status(order_id_of(answer)) == end
    did = await steps(service, order_id_of(answer))
    assert len(did) == len(set(did)), "the timeline has each step once"
    await service.check()


@pytest.mark.parametrize("cut", Cut)
async def test_payment_with_unknown_outcome_is_debited_once(service: OrderService, way: Way, cut: Cut) -> None:
    customer = await service.customer()
    async with service.replica(url=way.url) as replica:
        order_id = await customer.unpaid(replica)
        way.cut = cut
        assert problem_of(await replica.checkout.pay(order_id, None)) is None
    assert await service.status(order_id) == "PAID"
    await service.check()


@pytest.mark.parametrize("cut", Cut)
async def test_every_order_of_a_batch_with_unknown_commit_is_made_once(
    service: OrderService, way: Way, cut: Cut
) -> None:
    customers = [await service.customer() for _ in range(20)]
    async with service.replica(url=way.url) as replica:
        way.cut = cut
        answers = await asyncio.gather(*(customer.place(replica) for customer in customers))
    assert [problem_of(answer) for answer in answers] == [None] * 20
    assert [len(await customer.orders()) for customer in customers] == [1] * 20
    await service.check()
