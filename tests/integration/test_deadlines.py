"""The answers at a client's deadline: 202 if the saga has begun, 408 if the body never came, 503 for the rest."""

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
from shared.identity.authenticator import OpenAuthenticator
from shared.identity.callers import SIGNED_IN
from shared.postgres.connections import Session
from shared.process.settings import ServiceSettings
from shared.process.stopping import Stop
from tests.infrastructure.checkout import Checkout, Participants, ordering, participants
from tests.infrastructure.databases import Database
from tests.infrastructure.proxy import Mode, Proxy
from tests.infrastructure.sagas import LIVE
from tests.infrastructure.services import Answer, Client, migrate_service, running, serving
from tests.infrastructure.shopping import an_order_of_a_new_user
from tests.infrastructure.waiting import eventually, free_port

DEADLINE_SECONDS = 1.0
LATE_SECONDS = 1.0  # an answer may come so long after its deadline
READY_SECONDS = 1.0
PATIENCE_SECONDS = 10
ENDED_SECONDS = 5  # less than a role's statement_timeout, which would end a statement as well


async def timed(client: Client, method: str, path: str, body: Any = None, **options: Any) -> Answer:
    """Return the answer; fail if it comes too late."""
    began = time.monotonic()
    answer = await client.call(method, path, body, **options)
    assert time.monotonic() - began < DEADLINE_SECONDS + LATE_SECONDS
    return answer


@asynccontextmanager
async def behind_a_proxy(url: str) -> AsyncIterator[tuple[str, Proxy]]:
    """Open a proxy of a database."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with Proxy(parts.hostname, parts.port) as way:
        place = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{way.port}"
        yield parts._replace(netloc=place).geturl(), way


@pytest.fixture
async def checkout(database: Database) -> AsyncIterator[tuple[Checkout, Proxy]]:
    """Serve the order service with its participants and a proxy of its database."""
    async with AsyncExitStack() as stack:
        others: Participants = await stack.enter_async_context(participants(database))
        url, way = await stack.enter_async_context(behind_a_proxy(database.as_role("order_service")))
        settings = {"database_url": url, "request_deadline_seconds": DEADLINE_SECONDS}
        yield await stack.enter_async_context(ordering(database, others, **settings)), way


@pytest.mark.parametrize("operation", ["place", "payment", "cancel"])
async def test_begun_order_is_answered_202_if_the_database_then_hangs(
    checkout: tuple[Checkout, Proxy], operation: str
) -> None:
    there, database_way = checkout
    order, way = await an_order_of_a_new_user(there.shop), there.ways["balance"]
    client = there.shop.order
    path = "/v1/orders"
    if operation != "place":
        later = await client.post(path, {**order, "payment": "later"})
        path, order = f"/v1/orders/{later['order_id']}/{operation}", {}
    way.set(Mode.SILENT)
    key = {"Idempotency-Key": str(uuid4())}
    asked = asyncio.create_task(timed(client, "POST", path, order, headers=key))

    async def begun() -> bool:
        return bool(await there.value(LIVE))

    await eventually(begun, PATIENCE_SECONDS, "a live saga")
    database_way.set(Mode.SILENT)
    answer = await asked
    assert (answer.status, answer.headers["Location"]) == (202, f"/v1/orders/{answer.body['order_id']}")
    database_way.set(Mode.OPEN)
    way.set(Mode.OPEN)
    await there.until_idle()
    end = await final(client, path, order, key)
    assert end["status"] == ("CANCELLED" if operation == "cancel" else "PAID")


async def final(client: Client, path: str, order: Any, key: dict[str, str]) -> dict[str, Any]:
    """Return the order in a key's final answer, once there is one."""

    async def final_answer() -> dict[str, Any]:
        answer = await client.call("POST", path, order, headers=key)
        return dict(answer.body) if answer.status in (200, 201) else {}

    return await eventually(final_answer, 2 * PATIENCE_SECONDS, "the key's answer")


async def test_order_with_unknown_outcome_is_answered_503_and_its_key_returns_the_outcome(
    checkout: tuple[Checkout, Proxy],
) -> None:
    there, way = checkout
    order, key = await an_order_of_a_new_user(there.shop), {"Idempotency-Key": str(uuid4())}
    way.set(Mode.DEAF)  # the request arrives and is committed, but its answer is lost
    answer = await timed(there.shop.order, "POST", "/v1/orders", order, headers=key)
    assert (answer.status, answer.problem, answer.headers["Retry-After"]) == (503, "unavailable", "1")
    way.set(Mode.OPEN)
    way.cut()
    end = await final(there.shop.order, "/v1/orders", order, key)
    assert end["status"] == "PAID"
    found = await there.shop.order.get("/v1/orders", user_id=order["user_id"])
    assert [one["order_id"] for one in found["items"]] == [end["order_id"]]


async def test_order_that_cannot_be_sent_to_the_database_gets_503_immediately(
    checkout: tuple[Checkout, Proxy],
) -> None:
    there, way = checkout
    order, key = await an_order_of_a_new_user(there.shop), {"Idempotency-Key": str(uuid4())}
    way.set(Mode.CLOSED)
    began = time.monotonic()
    answer = await there.shop.order.call("POST", "/v1/orders", order, headers=key)
    assert (answer.status, answer.problem) == (503, "unavailable")
    assert time.monotonic() - began < DEADLINE_SECONDS / 2
    way.set(Mode.OPEN)
    assert (await final(there.shop.order, "/v1/orders", order, key))["status"] == "PAID"


async def test_readers_that_take_all_connections_do_not_make_the_service_unready(database: Database) -> None:
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
                # A request that was cut off has released its connection, and the server has ended its statement.
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                other = await asyncpg.connect(database.url)
                try:

                    async def nobody_waits() -> bool:
                        return bool(await other.fetchval(waiting) == 0)

                    await eventually(nobody_waits, ENDED_SECONDS, "the end of all statements")
                finally:
                    await other.close()
        finally:
            await holder.close()
        moved = await client.post(f"/v1/products/{product}/stock", {"delta": 1})
        assert moved["stock"] == 2, "what was answered 503 was rolled back"


async def test_cancelled_transaction_does_not_wait_for_the_rollback_of_a_hanging_database(
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
    """Settings of a server without a database."""

    request_deadline_seconds: float = 0.2


async def serve_slow_calls(settings: Settings, stop: Stop) -> None:
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
        Route("GET", "/hang/{id}", SIGNED_IN, hang, "Hang", {200: None}),
        Route("GET", "/long", SIGNED_IN, take_long, "Take long", {200: None}, deadline_seconds=60),
        Route("POST", "/read", SIGNED_IN, read, "Read a body", {200: None}),
    ]
    await HttpServer("slow", "Slow calls.", settings, OpenAuthenticator(), routes, {}).run(stop)


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
