"""Beyond its capacity the order service turns new orders away at once, and goes on with those that it has."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY

from services.order.checkout import Pending
from services.order.participants import CALL_TIMEOUT_SECONDS
from services.order.saga import Participant
from shared.refusals import Unavailable
from tests.contract.raw import connected, read_answer
from tests.infrastructure.proxy import Mode, Proxy
from tests.infrastructure.services import Answer, Client, serving
from tests.infrastructure.waiting import eventually
from tests.integration.order.world import PATIENCE_SECONDS, World, beside, problem_of

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
    async with world.replica() as replica, replica.sweeping():
        await world.settled()


DUE = "UPDATE orders.orders SET expires_at = clock_timestamp() WHERE order_id = ANY ($1::uuid[])"
CLOSING = "SELECT count(*) FROM orders.orders WHERE order_id = ANY ($1::uuid[]) AND closing IS NOT NULL"


def turned_away() -> float:
    return REGISTRY.get_sample_value("orders_turned_away_total") or 0.0


async def an_order(client: Client) -> Answer:
    body = {"user_id": "ann", "lines": [{"product_id": "pen", "quantity": 1}]}
    return await client.call("POST", "/v1/orders", body)


async def test_an_order_beyond_it_is_refused_at_once_and_told_when_to_come_back(world: World) -> None:
    before = turned_away()
    async with full(world) as client:
        began = time.monotonic()
        refused = await an_order(client)
        assert time.monotonic() - began < 0.2  # before the deadline, at which it would be answered 202
        assert (refused.status, refused.problem, refused.headers["Retry-After"]) == (503, "unavailable", "1")
        # Nothing of it is looked at: what costs something can be made to.
        unread = await client.call("POST", "/v1/orders", data=b"{", headers={"Content-Type": "application/json"})
        assert (unread.status, unread.problem) == (503, "unavailable")
    await ended(world)
    assert turned_away() == before + 2


def raw_order(*headers: str) -> bytes:
    """An order as it goes over the wire, all of it."""
    body = '{"user_id":"ann","lines":[{"product_id":"pen","quantity":1}]}'
    lines = ["POST /v1/orders HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", body]).encode()


async def test_who_is_refused_keeps_the_connection_and_the_ids_of_the_request(world: World) -> None:
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


async def test_payments_cancellations_and_reads_of_what_there_is_go_on(world: World) -> None:
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


async def test_a_stop_does_not_wait_for_a_participant_that_hangs(world: World) -> None:
    customer = await world.customer()
    async with silence() as product:
        urls = {Participant.PRODUCT: product}
        async with world.replica(urls=urls, request_deadline_seconds=0.05) as replica:
            assert isinstance(await customer.place(replica), Pending)
            began = time.monotonic()
        assert time.monotonic() - began < CALL_TIMEOUT_SECONDS / 2
    await ended(world)
    await world.check()


async def test_expiry_takes_no_more_than_a_quarter_of_the_room(world: World) -> None:
    customers = [await world.customer() for _ in range(6)]
    async with world.replica() as replica:
        to_pay, *due = [await customer.unpaid(replica) for customer in customers]
    await world.db.execute(DUE, due)
    async with silence() as product, world.replica(sagas_max=8, urls={Participant.PRODUCT: product}) as replica:

        async def some_are_closing() -> bool:
            return bool(await world.db.fetchval(CLOSING, due))

        async with beside(replica.expiry.run()):
            await eventually(some_are_closing, PATIENCE_SECONDS, "the first closings")
            assert problem_of(await replica.checkout.pay(to_pay, None)) is None
        await replica.expiry._expire()
        assert await world.db.fetchval(CLOSING, due) == 2
        assert (replica.runner.count, replica.admission.room) == (2, 6)
    async with world.replica() as replica, replica.sweeping(), beside(replica.expiry.run()):

        async def all_are_expired() -> bool:
            return {await world.status(order_id) for order_id in due} == {"EXPIRED"}

        await eventually(all_are_expired, PATIENCE_SECONDS, "the expiry of them all")
        await world.settled()
    await world.check()


async def test_a_backlog_of_expiry_is_worked_off_as_its_closings_end(world: World) -> None:
    customers = [await world.customer() for _ in range(5)]
    async with world.replica(sagas_max=4, expiry_interval_seconds=3600) as replica:
        due = [await customer.unpaid(replica) for customer in customers]
        await world.db.execute(DUE, due)
        await replica.expiry._expire()  # one at a time, and no pause between
        assert {await world.status(order_id) for order_id in due} == {"EXPIRED"}
    await world.check()


@pytest.mark.parametrize("mode", [Mode.CLOSED, Mode.SILENT, Mode.DEAF], ids=lambda mode: mode.name.lower())
async def test_while_coupons_are_away_orders_without_one_go_on(world: World, mode: Mode) -> None:
    customers = [await world.customer() for _ in range(4)]
    before = turned_away()
    port = urlsplit(world.coupon.url).port
    assert port is not None
    async with (
        Proxy("127.0.0.1", port) as way,
        world.replica(sagas_max=4, urls={Participant.COUPON: way.url}, request_deadline_seconds=1) as replica,
    ):
        way.set(mode)
        assert all(isinstance(one, Pending) for one in await asyncio.gather(*(c.place(replica) for c in customers[:2])))

        async def both_are_held_up() -> bool:
            return replica.runner.held_up(Participant.COUPON) == 2

        await eventually(both_are_held_up, PATIENCE_SECONDS, "two sagas that wait for a coupon")
        assert REGISTRY.get_sample_value("sagas_held_up", {"participant": "coupon"}) == 2
        assert replica.runner.held_up(Participant.PRODUCT) == 0
        for now in (True, False):
            with pytest.raises(Unavailable, match="wait for the coupon service"):
                await customers[2].place(replica, now=now)
            assert problem_of(await customers[3].place(replica, now=now, coupon=None)) is None
        assert turned_away() == before + 2
        way.set(Mode.OPEN)
        await world.settled()
        assert replica.runner.held_up(Participant.COUPON) == 0
        assert problem_of(await customers[2].place(replica)) is None
    await world.check()
