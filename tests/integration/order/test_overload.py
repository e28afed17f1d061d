"""Beyond its capacity the order service turns new orders away at once, and goes on with those that it has."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from services.order.checkout import Pending
from services.order.engine.participants import CALL_TIMEOUT_SECONDS
from services.order.saga import Participant
from tests.infrastructure.raw_http import connected, read_answer
from tests.infrastructure.services import Answer, Client, serving
from tests.integration.order.world import World, sweeping

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def silence() -> AsyncIterator[str]:
    """The address of a participant that takes what it is sent and never answers."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()


@asynccontextmanager
async def full(world: World) -> AsyncIterator[Client]:
    """The service with as many sagas as it may run: one, which waits for its stock."""
    async with (
        silence() as product,
        serving(
            "order",
            world.order_url,
            sagas_max=1,
            product_url=product,
            request_deadline_seconds=0.2,
            audit_interval_seconds=3600,
        ) as client,
    ):
        assert (await an_order(client)).status == 202
        yield client


async def ended(world: World) -> None:
    """Have what waits for its stock end, now that there is somebody to ask."""
    async with world.replica() as replica, sweeping(replica):
        await world.settled()


async def an_order(client: Client) -> Answer:
    body = {"user_id": "ann", "lines": [{"product_id": "pen", "quantity": 1}]}
    return await client.call("POST", "/v1/orders", body)


async def test_order_beyond_the_limit_is_refused_at_once_with_retry_after(world: World) -> None:
    before = REGISTRY.get_sample_value("orders_turned_away_total") or 0.0
    async with full(world) as client:
        began = time.monotonic()
        refused = await an_order(client)
        assert time.monotonic() - began < 0.2  # before the deadline, at which it would be answered 202
        assert (refused.status, refused.problem, refused.headers["Retry-After"]) == (503, "unavailable", "1")
        # Nothing of it is looked at: what costs something can be made to.
        unread = await client.call("POST", "/v1/orders", data=b"{", headers={"Content-Type": "application/json"})
        assert (unread.status, unread.problem) == (503, "unavailable")
    await ended(world)
    assert REGISTRY.get_sample_value("orders_turned_away_total") == before + 2


def raw_order(*headers: str) -> bytes:
    """An order as it goes over the wire, all of it."""
    body = '{"user_id":"ann","lines":[{"product_id":"pen","quantity":1}]}'
    lines = ["POST /v1/orders HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", body]).encode()


async def test_refused_request_keeps_its_connection_and_request_ids(world: World) -> None:
    async with full(world) as client, connected(client.url) as (reader, writer):
        for number in range(3):
            writer.write(raw_order(f"X-Request-Id: mine-{number}"))
            refused = await read_answer(reader)
            assert (refused.status, refused.problem["instance"]) == (503, "/v1/orders")
            assert (refused.headers["retry-after"], refused.headers["x-request-id"]) == ("1", f"mine-{number}")
            assert "traceparent" in refused.headers
            # Nothing was begun for it: the library, which names itself, has not come to answering.
            assert "server" not in refused.headers
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await read_answer(reader)).status == 200
        writer.write(raw_order("Connection: close"))
        refused = await read_answer(reader)
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert await reader.read() == b""
    await ended(world)


async def test_payments_cancellations_and_reads_continue_beyond_the_limit(world: World) -> None:
    async with world.replica() as replica:
        customer = await world.customer()
        paid = await customer.paid(replica)
    async with full(world) as client:
        assert (await client.get(f"/v1/orders/{paid}"))["status"] == "PAID"
        assert (await client.get("/v1/orders", user_id=customer.user))["items"] != []
        assert (await client.call("POST", f"/v1/orders/{paid}/payment")).status == 200
        # Its saga has a place, although the stock can't be given back yet.
        assert (await client.call("POST", f"/v1/orders/{paid}/cancel")).status == 202
        # That was the last.
        beyond = await client.call("POST", f"/v1/orders/{paid}/payment")
        assert (beyond.status, beyond.problem, beyond.headers["Retry-After"]) == (503, "unavailable", "1")
    await ended(world)
    assert await world.status(paid) == "REFUNDED"
    await world.check()


async def test_stop_does_not_wait_for_a_hanging_participant(world: World) -> None:
    customer = await world.customer()
    async with silence() as product:
        urls = {Participant.PRODUCT: product}
        async with world.replica(urls=urls, request_deadline_seconds=0.05) as replica:
            assert isinstance(await customer.place(replica), Pending)
            began = time.monotonic()
        assert time.monotonic() - began < CALL_TIMEOUT_SECONDS / 2
    await ended(world)
    await world.check()
