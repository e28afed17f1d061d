"""What a client is told at its deadline: 202 for what has begun, 408 for a body that never came, 503 for the rest."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from aiohttp import web

from shared.http.deadline import GRACE_SECONDS, LOOK_SECONDS
from shared.http.routes import Route
from shared.http.server import HttpServer, reply
from shared.postgres import Session
from shared.settings import ServiceSettings
from tests.infrastructure.checkout import Participants, World, ordering, participants
from tests.infrastructure.databases import Database
from tests.infrastructure.proxy import Mode, Proxy
from tests.infrastructure.services import Answer, Client, migrate_service, running, serving
from tests.infrastructure.waiting import eventually, free_port

DEADLINE_SECONDS = 1.0
LATE_SECONDS = 1.0  # an answer may come so long after its deadline
READY_SECONDS = 1.0
PATIENCE_SECONDS = 10


async def timed(client: Client, method: str, path: str, body: Any = None, **options: Any) -> Answer:
    """The answer; fails if it comes later than it may."""
    began = time.monotonic()
    answer = await client.call(method, path, body, **options)
    assert time.monotonic() - began < DEADLINE_SECONDS + LATE_SECONDS
    return answer


@asynccontextmanager
async def behind_a_proxy(url: str) -> AsyncIterator[tuple[str, Proxy]]:
    """Another way to a database."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with Proxy(parts.hostname, parts.port) as way:
        place = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{way.port}"
        yield parts._replace(netloc=place).geturl(), way


@pytest.fixture
async def world(database: Database) -> AsyncIterator[tuple[World, Proxy]]:
    """The order service with its participants, and the way to its database."""
    async with AsyncExitStack() as stack:
        others: Participants = await stack.enter_async_context(participants(database))
        url, way = await stack.enter_async_context(behind_a_proxy(database.as_role("order_service")))
        settings = {"database_url": url, "request_deadline_seconds": DEADLINE_SECONDS}
        yield await stack.enter_async_context(ordering(database, others, **settings)), way


async def something_to_buy(shop: Any) -> dict[str, Any]:
    """An order that can be placed."""
    user, product = f"user-{uuid4()}", f"product-{uuid4()}"
    await shop.product.post("/v1/products", {"product_id": product, "name": "Thing", "price": 100, "stock": 5})
    await shop.balance.post(f"/v1/accounts/{user}/charges", {"amount": 1000})
    return {"user_id": user, "lines": [{"product_id": product, "quantity": 1}]}


@pytest.mark.parametrize("operation", ["place", "payment", "cancel"])
async def test_what_has_begun_is_answered_202_though_the_database_hangs_from_then_on(
    world: tuple[World, Proxy], operation: str
) -> None:
    there, database_way = world
    order, way = await something_to_buy(there.shop), there.ways["balance"]
    client = there.shop.order
    path = "/v1/orders"
    if operation != "place":
        later = await client.post(path, {**order, "payment": "later"})
        path, order = f"/v1/orders/{later['order_id']}/{operation}", {}
    way.set(Mode.SILENT)
    key = {"Idempotency-Key": str(uuid4())}
    asked = asyncio.create_task(timed(client, "POST", path, order, headers=key))

    async def begun() -> bool:
        return bool(await there.value("SELECT count(*) FROM orders.sagas WHERE status IN ('RUNNING', 'COMPENSATING')"))

    await eventually(begun, PATIENCE_SECONDS, "a live saga")
    database_way.set(Mode.SILENT)
    answer = await asked
    assert (answer.status, answer.headers["Location"]) == (202, f"/v1/orders/{answer.body['order_id']}")
    database_way.set(Mode.OPEN)
    way.set(Mode.OPEN)
    await there.settled()
    end = await final(client, path, order, key)
    assert end["status"] == ("CANCELLED" if operation == "cancel" else "PAID")


async def final(client: Client, path: str, order: Any, key: dict[str, str]) -> dict[str, Any]:
    """The order in the final answer of a key, once there is one."""

    async def told() -> dict[str, Any]:
        answer = await client.call("POST", path, order, headers=key)
        return dict(answer.body) if answer.status in (200, 201) else {}

    return await eventually(told, 2 * PATIENCE_SECONDS, "the key's answer")


async def test_an_order_of_which_nothing_is_known_is_answered_503_and_its_key_tells_the_end(
    world: tuple[World, Proxy],
) -> None:
    there, way = world
    order, key = await something_to_buy(there.shop), {"Idempotency-Key": str(uuid4())}
    way.set(Mode.DEAF)  # it arrives, and is committed, but nothing is heard of it
    answer = await timed(there.shop.order, "POST", "/v1/orders", order, headers=key)
    assert (answer.status, answer.problem, answer.headers["Retry-After"]) == (503, "unavailable", "1")
    way.set(Mode.OPEN)
    way.cut()
    end = await final(there.shop.order, "/v1/orders", order, key)
    assert end["status"] == "PAID"
    found = await there.shop.order.get("/v1/orders", user_id=order["user_id"])
    assert [one["order_id"] for one in found["items"]] == [end["order_id"]]


async def test_an_order_that_could_not_even_be_sent_to_the_database_is_answered_503_at_once(
    world: tuple[World, Proxy],
) -> None:
    there, way = world
    order, key = await something_to_buy(there.shop), {"Idempotency-Key": str(uuid4())}
    way.set(Mode.CLOSED)
    began = time.monotonic()
    answer = await there.shop.order.call("POST", "/v1/orders", order, headers=key)
    assert (answer.status, answer.problem) == (503, "unavailable")
    assert time.monotonic() - began < DEADLINE_SECONDS / 2
    way.set(Mode.OPEN)
    assert (await final(there.shop.order, "/v1/orders", order, key))["status"] == "PAID"


async def test_readers_that_take_all_connections_do_not_make_it_unready(database: Database) -> None:
    url = await asyncio.to_thread(migrate_service, "product", database)
    settings = {"request_deadline_seconds": DEADLINE_SECONDS, "pool_size": 2}
    async with serving("product", url, **settings) as client:
        product = (await client.post("/v1/products", {"name": "Thing", "price": 1, "stock": 1}))["product_id"]
        holder = await asyncpg.connect(database.url)
        try:
            async with holder.transaction():
                await holder.execute("SELECT FROM products.products WHERE product_id = $1 FOR UPDATE", product)
                moves = [
                    asyncio.create_task(timed(client, "POST", f"/v1/products/{product}/stock", {"delta": 1}))
                    for _ in range(20)
                ]
                await asyncio.sleep(0)
                for _ in range(3):
                    began = time.monotonic()
                    readiness = await client.call("GET", "/readyz")
                    assert (readiness.status, time.monotonic() - began < READY_SECONDS) == (200, True)
                assert {answer.status for answer in await asyncio.gather(*moves)} == {503}
                # What was cut off has let go of its connection, and the server of its statement.
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                other = await asyncpg.connect(database.url)
                try:

                    async def nobody_waits() -> bool:
                        return bool(await other.fetchval(waiting) == 0)

                    await eventually(nobody_waits, PATIENCE_SECONDS, "the end of all statements")
                finally:
                    await other.close()
        finally:
            await holder.close()
        moved = await client.post(f"/v1/products/{product}/stock", {"delta": 1})
        assert moved["stock"] == 2, "what was answered 503 was rolled back"


async def test_a_transaction_that_is_cancelled_does_not_wait_for_a_rollback_of_a_database_that_hangs(
    database: Database,
) -> None:
    async with behind_a_proxy(database.url) as (url, way), Session(Settings(port=1, database_url=url), "x") as session:
        silent = asyncio.Event()

        async def work() -> None:
            async with session.transaction() as db:
                await db.execute("CREATE TEMPORARY TABLE t ()")
                way.set(Mode.SILENT)
                silent.set()
                await db.execute("SELECT 1")

        task = asyncio.create_task(work())
        await silent.wait()
        await asyncio.sleep(0)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < LATE_SECONDS
        way.set(Mode.OPEN)
        async with session.transaction() as db:
            assert await db.fetchval("SELECT to_regclass('t')") is None


class Settings(ServiceSettings):
    """Of a server without a database."""

    request_deadline_seconds: float = 0.2


async def serve_slow_calls(settings: Settings, stop: asyncio.Event) -> None:
    """Serve calls that take longer than the deadline."""

    async def hang(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def take_long(_request: web.Request) -> web.Response:
        await asyncio.sleep(settings.request_deadline_seconds + GRACE_SECONDS + 5 * LOOK_SECONDS)
        return reply({})

    async def read(request: web.Request) -> web.Response:
        return reply({"length": len(await request.read())})

    routes = [
        Route("GET", "/hang/{id}", hang, "Hang", {200: None}),
        Route("GET", "/long", take_long, "Take long", {200: None}, deadline_seconds=60),
        Route("POST", "/read", read, "Read a body", {200: None}),
    ]
    await HttpServer("slow", "Slow calls.", settings, routes, {}).run(stop)


@pytest.fixture
async def slow() -> AsyncIterator[Client]:
    """A server of slow calls."""
    settings = Settings(port=free_port(), database_url="postgresql://nowhere")
    async with running(serve_slow_calls, settings) as client:
        yield client


async def test_a_connection_whose_request_was_cut_off_serves_the_next_one(slow: Client) -> None:
    for _ in range(2):
        answer = await timed(slow, "GET", "/hang/1")
        assert (answer.status, answer.problem, answer.headers["Retry-After"]) == (503, "unavailable", "1")
    assert await slow.get("/livez") == {"status": "alive"}


async def test_a_call_with_a_deadline_of_its_own_may_take_longer(slow: Client) -> None:
    assert await slow.get("/long") == {}


async def test_a_body_that_has_not_come_by_the_deadline_is_answered_408(slow: Client) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    answer = await timed(slow, "POST", "/read", data=endless(), headers={"Content-Type": "application/json"})
    assert (answer.status, answer.problem, answer.headers["Connection"]) == (408, "request-timeout", "close")
