"""The load of drills buys with the client, and still counts each request, each failure and each answer."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from deploy.client.problems import OutOfStock
from tests.drills import load as drills
from tests.drills.load import PRODUCTS, USERS, LoadAtReplicas, Purchase
from tests.faults.cluster import REPLICAS
from tests.infrastructure.services import Client
from tests.infrastructure.waiting import free_port
from tests.integration.client.samples import ORDER_ID, an_order
from tests.integration.client.server import Act, Server, answer, break_off, break_off_midway, hang, misbehaving, refuse

PAID = answer(201, an_order())
ACCEPTED = answer(202, an_order("PLACING"))
UNAVAILABLE = refuse(503, "unavailable", Retry_After="0")
BUG = refuse(500, "internal-error")
Loads = Callable[..., Awaitable[LoadAtReplicas]]


@pytest_asyncio.fixture
async def servers() -> AsyncIterator[dict[str, Server]]:
    """Serve what the test tells, as each replica."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(misbehaving()) for name in REPLICAS}


@pytest_asyncio.fixture
async def loads(servers: dict[str, Server]) -> AsyncIterator[Loads]:
    """Return what makes a load of the replicas, whose URLs may be others."""
    async with AsyncExitStack() as stack:

        async def make(**instead: str) -> LoadAtReplicas:
            everything = await stack.enter_async_context(misbehaving())
            urls = {name: server.url for name, server in servers.items()} | instead
            urls |= dict.fromkeys(("product", "balance"), everything.url)
            clients = {
                name: Client(await stack.enter_async_context(aiohttp.ClientSession(url)), url)
                for name, url in urls.items()
            }
            load = LoadAtReplicas(
                clients=clients.__getitem__, sessions=lambda each: aiohttp.ClientSession(middlewares=(each,))
            )
            everything.will(*[answer(201, {})] * (PRODUCTS + USERS))
            await load.prepare()
            return load

        yield make


def ending(load: LoadAtReplicas, act: Act) -> Act:
    """Let customers buy nothing more; then do the act."""

    async def last(request: web.Request) -> web.StreamResponse:
        load.end()
        return await act(request)

    return last


async def test_each_request_counts_and_each_failure_as_well(servers: dict[str, Server], loads: Loads) -> None:
    load = await loads()
    first, second = servers.values()
    first.will(ending(load, UNAVAILABLE), break_off_midway, PAID)
    second.will(break_off, refuse(409, "idempotency-in-progress", Retry_After="0"))
    await load.buy(1)
    assert load.requests == len(first.received) + len(second.received) == 5
    assert [one.why for one in load.failed] == ["503", "ServerDisconnectedError", "ClientPayloadError"]
    assert load.purchases == [Purchase(ORDER_ID, "PAID")]
    assert (load.acknowledged, set(load.answered)) == (1, {"order-1"})
    assert len({*first.keys, *second.keys}) == 1


async def test_following_an_accepted_order_counts_as_well(servers: dict[str, Server], loads: Loads) -> None:
    load = await loads()
    first, second = servers.values()
    told: list[Purchase] = []

    async def look(request: web.Request) -> web.StreamResponse:
        told.append(Purchase(load.purchases[0].order_id, load.purchases[0].status))
        return await UNAVAILABLE(request)

    first.will(ending(load, ACCEPTED), answer(200, an_order()))
    second.will(look, PAID)
    await load.buy(1)
    assert (load.requests, [one.why for one in load.failed]) == (4, ["503"])
    # Between the two, the customer knows the order: it must exist from now on.
    assert (told, load.purchases) == ([Purchase(ORDER_ID, "PLACING")], [Purchase(ORDER_ID, "PAID")])
    assert set(load.answered) == {"order-2"}


async def test_refused_connection_goes_to_the_next_replica_and_is_no_failure(
    servers: dict[str, Server], loads: Loads
) -> None:
    load = await loads(**{"order-1": f"http://127.0.0.1:{free_port()}"})
    second = servers["order-2"]
    second.will(ending(load, UNAVAILABLE), PAID)
    await load.buy(1)
    assert (load.requests, [one.why for one in load.failed]) == (2, ["503"])
    assert set(load.answered) == {"order-2"}


async def test_request_that_no_replica_accepts_has_failed(
    loads: Loads, servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drills, "PATIENCE_SECONDS", 0.5)
    assert servers
    load = await loads(**{name: f"http://127.0.0.1:{free_port()}" for name in REPLICAS})
    with pytest.raises(ExceptionGroup) as failed:
        await load.buy(1)
    assert failed.group_contains(AssertionError, match="no final answer")
    assert load.requests == len(load.failed) >= 3
    # The deadline may cut the last request off.
    assert {one.why for one in load.failed[:-1]} == {"ClientConnectorError"}
    assert load.purchases == [Purchase()]


async def test_request_that_the_deadline_cuts_off_has_failed(
    loads: Loads, servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drills, "PATIENCE_SECONDS", 0.2)
    load = await loads()
    servers["order-1"].will(hang(1))
    with pytest.raises(ExceptionGroup):
        await load.buy(1)
    assert (load.requests, [one.why for one in load.failed]) == (1, ["CancelledError"])


async def test_request_without_an_answer_has_failed_after_its_time(
    servers: dict[str, Server], loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drills, "ATTEMPT_SECONDS", 0.1)
    load = await loads()
    servers["order-1"].will(ending(load, hang(1)))
    servers["order-2"].will(PAID)
    await load.buy(1)
    assert (load.requests, [one.why for one in load.failed]) == (2, ["TimeoutError"])


@pytest.mark.parametrize("lost", [refuse(404, "order-not-found"), BUG], ids=["order-lost", "bug"])
async def test_customer_without_a_final_answer_calls_again_with_the_key(
    servers: dict[str, Server], loads: Loads, lost: Act
) -> None:
    load = await loads()
    first, second = servers.values()
    acts = [ACCEPTED, lost, PAID] if lost is not BUG else [BUG, BUG, BUG, PAID]
    acts[0] = ending(load, acts[0])
    for number, act in enumerate(acts):
        (first, second)[number % 2].will(act)
    await load.buy(1)
    assert load.requests == len(acts)
    assert len(load.failed) == (3 if lost is BUG else 0)
    assert len({key for key in (*first.keys, *second.keys) if key}) == 1
    assert load.acknowledged == 1


async def test_refusal_ends_the_load(servers: dict[str, Server], loads: Loads) -> None:
    load = await loads()
    servers["order-1"].will(refuse(400, "out-of-stock", {"product_ids": ["keyboard"]}))
    with pytest.raises(ExceptionGroup) as failed:
        await load.buy(1)
    assert failed.group_contains(OutOfStock)
    assert (load.acknowledged, load.failed) == (0, [])
