"""Beyond its capacity, the order service refuses new orders immediately and continues those that it has."""

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
from tests.integration.order.order_service import OrderService, sweeping

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def silence() -> AsyncIterator[str]:
    """Return the address of a participant that reads requests and never answers."""

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
async def full(service: OrderService) -> AsyncIterator[Client]:
    """Serve the service with its maximum of sagas: one, which waits for its stock."""
    async with (
        silence() as product,
        serving(
            "order",
            service.order_url,
            sagas_max=1,
            product_url=product,
            request_deadline_seconds=0.2,
            audit_interval_seconds=3600,
        ) as client,
    ):
        assert (await an_order(client)).status == 202
        yield client


async def ended(service: OrderService) -> None:
    """Let the waiting saga end, with a participant that answers."""
    async with service.replica() as replica, sweeping(replica):
        await service.until_idle()


async def an_order(client: Client) -> Answer:
    body = {"user_id": "ann", "lines": [{"product_id": "pen", "quantity": 1}]}
    return await client.call("POST", "/v1/orders", body)


async def test_order_beyond_the_limit_is_refused_immediately_with_retry_after(service: OrderService) -> None:
    before = REGISTRY.get_sample_value("orders_turned_away_total") or 0.0
    async with full(service) as client:
        began = time.monotonic()
        refused = await an_order(client)
        assert time.monotonic() - began < 0.2  # before the deadline, at which it would be answered 202
        assert (refused.status, refused.problem, refused.headers["Retry-After"]) == (503, "unavailable", "1")
        # The request is not read at all, because reading costs CPU.
        unread = await client.call("POST", "/v1/orders", data=b"{", headers={"Content-Type": "application/json"})
        assert (unread.status, unread.problem) == (503, "unavailable")
    await ended(service)
    assert REGISTRY.get_sample_value("orders_turned_away_total") == before + 2


def raw_order(*headers: str) -> bytes:
    """Return the bytes of a complete order request."""
    body = '{"user_id":"ann","lines":[{"product_id":"pen","quantity":1}]}'
    lines = ["POST /v1/orders HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", body]).encode()


async def test_refused_request_keeps_its_connection_and_request_ids(service: OrderService) -> None:
    async with full(service) as client, connected(client.url) as (reader, writer):
        for number in range(3):
            writer.write(raw_order(f"X-Request-Id: mine-{number}"))
            refused = await read_answer(reader)
            assert (refused.status, refused.problem["instance"]) == (503, "/v1/orders")
            assert (refused.headers["retry-after"], refused.headers["x-request-id"]) == ("1", f"mine-{number}")
            assert "traceparent" in refused.headers
            # Nothing was begun for the request: the library, which names itself in answers, has not answered.
            assert "server" not in refused.headers
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await read_answer(reader)).status == 200
        writer.write(raw_order("Connection: close"))
        refused = await read_answer(reader)
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert await reader.read() == b""
    await ended(service)


async def test_payments_cancellations_and_reads_continue_beyond_the_limit(service: OrderService) -> None:
    async with service.replica() as replica:
        customer = await service.customer()
        paid = await customer.paid(replica)
    async with full(service) as client:
        assert (await client.get(f"/v1/orders/{paid}"))["status"] == "PAID"
        assert (await client.get("/v1/orders", user_id=customer.user))["items"] != []
        assert (await client.call("POST", f"/v1/orders/{paid}/payment")).status == 200
        # Its saga has capacity, although the stock can't be restored yet.
        assert (await client.call("POST", f"/v1/orders/{paid}/cancel")).status == 202
        # That was the last.
        beyond = await client.call("POST", f"/v1/orders/{paid}/payment")
        assert (beyond.status, beyond.problem, beyond.headers["Retry-After"]) == (503, "unavailable", "1")
    await ended(service)
    assert await service.status(paid) == "REFUNDED"
    await service.check()


async def test_stop_does_not_wait_for_a_hanging_participant(service: OrderService) -> None:
    customer = await service.customer()
    async with silence() as product:
        urls: dict[str, str] = {Participant.PRODUCT: product}
        async with service.replica(urls=urls, request_deadline_seconds=0.05) as replica:
            assert isinstance(await customer.place(replica), Pending)
            began = time.monotonic()
        assert time.monotonic() - began < CALL_TIMEOUT_SECONDS / 2
    await ended(service)
    await service.check()
