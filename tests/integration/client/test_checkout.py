"""The client's own repetitions against the real services: slow and broken participants, and one effect."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from deploy.client import Client, OrderStatus, Policy, Service
from deploy.client.problems import InsufficientBalance
from tests.infrastructure.books import violations
from tests.infrastructure.checkout import Checkout, serving_impatient_checkout
from tests.infrastructure.databases import Database
from tests.infrastructure.proxy import Mode, Proxy
from tests.infrastructure.shopping import a_product, a_user
from tests.infrastructure.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checkout(database: Database) -> AsyncIterator[Checkout]:
    """Serve the services. A client waits for its saga so briefly that a blocked one gets 202."""
    async with serving_impatient_checkout(database) as checkout:
        yield checkout


@pytest_asyncio.fixture(loop_scope="module")
async def client(checkout: Checkout) -> AsyncIterator[Client]:
    """Return a client of the order service."""
    async with Client({Service.ORDER: checkout.shop.order.url}, policy=Policy(longest_pause_seconds=0.2)) as client:
        yield client


def accepted() -> float:
    """Return how many requests were answered with 202. The services count in this process."""
    samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
    return sum(one.value for one in samples if one.name == "http_responses_total" and one.labels["status"] == "202")


async def answered_with_202(before: float) -> None:
    """Wait for one more answer 202."""

    async def is_answered() -> bool:
        return accepted() > before

    await eventually(is_answered, 10, "an answer 202")


@pytest.mark.parametrize("mode", [Mode.CLOSED, Mode.DEAF])
@pytest.mark.parametrize(("money", "status"), [(100, "PAID"), (99, "REJECTED")])
async def test_placement_behind_a_silent_participant_is_followed_to_its_end(
    checkout: Checkout, client: Client, mode: Mode, money: int, status: str
) -> None:
    user, product = await a_user(checkout.shop, money), await a_product(checkout.shop, stock=1)
    before = accepted()
    checkout.ways["balance"].set(mode)
    try:
        placing = asyncio.create_task(client.orders.place({product: 1}, user_id=user))
        await answered_with_202(before)
        assert not placing.done()
    finally:
        checkout.ways["balance"].set(Mode.OPEN)
    if status == "PAID":
        assert (await placing).status is OrderStatus.PAID
    else:
        with pytest.raises(InsufficientBalance) as refused:
            await placing
        assert (refused.value.required, refused.value.available) == (100, 99)
    assert [order.status async for order in client.orders.list(user_id=user)] == [status]
    await checkout.until_idle()
    assert await violations(checkout.database.url) == []


async def test_payment_behind_a_silent_participant_debits_once(checkout: Checkout, client: Client) -> None:
    user, product = await a_user(checkout.shop, 300), await a_product(checkout.shop)
    order = await client.orders.place({product: 1}, payment="later", user_id=user)
    before = accepted()
    checkout.ways["balance"].set(Mode.DEAF)
    try:
        paying = asyncio.create_task(client.orders.pay(order.order_id))
        await answered_with_202(before)
        assert not paying.done()
    finally:
        checkout.ways["balance"].set(Mode.OPEN)
    assert (await paying).status is OrderStatus.PAID
    assert (await checkout.shop.balance.get(f"/v1/accounts/{user}"))["balance"] == 200


async def test_placement_whose_answer_is_lost_is_repeated_and_placed_once(checkout: Checkout, client: Client) -> None:
    user, product = await a_user(checkout.shop, 300), await a_product(checkout.shop)
    port = urlsplit(checkout.shop.order.url).port
    assert port is not None
    async with Proxy("127.0.0.1", port) as way, Client({Service.ORDER: way.url}) as far:
        way.set(Mode.DEAF)
        placing = asyncio.create_task(far.orders.place({product: 1}, user_id=user))

        async def is_paid() -> bool:
            return [order.status async for order in client.orders.list(user_id=user)] == [OrderStatus.PAID]

        await eventually(is_paid, 10, "the order, whose answer is lost")
        assert not placing.done()
        way.set(Mode.OPEN)
        order = await placing
    assert [found async for found in client.orders.list(user_id=user)] == [order]
    assert (await checkout.shop.balance.get(f"/v1/accounts/{user}"))["balance"] == 200
