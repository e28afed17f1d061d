"""What the client repeats, with which key and after how long; what it never repeats; and when it gives up."""

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from uuid import UUID

import aiohttp
import pytest

from deploy.client import Client, NoFinalAnswer, OutcomeUnknown, Policy, Service, UnexpectedAnswer
from deploy.client.problems import (
    CouponExists,
    Forbidden,
    InternalError,
    OutOfStock,
    ProductExists,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    ValidationFailed,
)
from tests.infrastructure.waiting import free_port
from tests.integration.client.conftest import POLICY
from tests.integration.client.samples import COUPON, ORDER_ID, PRODUCT, an_order
from tests.integration.client.server import Act, Server, answer, break_off, break_off_midway, hang, refuse, say

BUG = refuse(500, "internal-error")
PLACED = answer(201, an_order())
TEMPORARY = {
    "a service in trouble": refuse(503, "unavailable", Retry_After="0"),
    "a request in progress": refuse(409, "idempotency-in-progress", Retry_After="0"),
    "a quota": refuse(429, "too-many-requests", Retry_After="0"),
    "a body that was late": refuse(408, "request-timeout"),
    "a proxy in trouble": say(502, "<h1>Bad Gateway</h1>"),
    "a broken connection": break_off,
    "a broken answer": break_off_midway,
    "no answer": hang(1),
}


@pytest.mark.parametrize("failure", TEMPORARY.values(), ids=TEMPORARY)
async def test_placement_is_repeated_with_the_same_key_and_body(client: Client, server: Server, failure: Act) -> None:
    server.will(failure, failure, PLACED)
    order = await client.orders.place({"keyboard": 1}, user_id="alice")
    assert (order.order_id, order.status, order.lines[0].unit_price) == (UUID(ORDER_ID), "PAID", 45000)
    first, *others = server.received
    assert len(server.received) == 3
    assert UUID(server.keys[0] or "").version == 4
    assert {(one.headers["Idempotency-Key"], one.body) for one in others} == {(server.keys[0], first.body)}


async def test_each_placement_has_a_key_of_its_own_or_the_given_one(client: Client, server: Server) -> None:
    server.will(PLACED, PLACED, PLACED)
    for key in (None, None, "mine"):
        await client.orders.place({"keyboard": 1}, key=key)
    assert len(set(server.keys)) == 3
    assert server.keys[2] == "mine"


@pytest.mark.parametrize("failure", TEMPORARY.values(), ids=TEMPORARY)
async def test_reading_is_repeated(client: Client, server: Server, failure: Act) -> None:
    server.will(failure, answer(200, an_order()))
    assert (await client.orders.get(ORDER_ID)).status == "PAID"


async def test_connection_that_nobody_accepts_is_tried_until_the_deadline() -> None:
    async with Client(f"http://127.0.0.1:{free_port()}", policy=POLICY) as client:
        with pytest.raises(NoFinalAnswer) as failed:
            await client.orders.place({"keyboard": 1}, key="mine", deadline_seconds=0.3)
    assert failed.value.key == "mine"
    # The deadline may come while the last attempt still opens its connection.
    assert isinstance(failed.value.last, aiohttp.ClientConnectorError | TimeoutError)


async def test_pause_is_as_long_as_the_service_asks(client: Client, server: Server) -> None:
    server.will(refuse(503, "unavailable", Retry_After="1"), PLACED)
    await client.orders.place({"keyboard": 1})
    first, second = server.received
    assert 1 <= second.at - first.at < 2


async def test_pause_beyond_the_deadline_is_not_waited_for(client: Client, server: Server) -> None:
    server.will(refuse(503, "unavailable", Retry_After="3600"))
    began = asyncio.get_running_loop().time()
    with pytest.raises(NoFinalAnswer) as failed:
        await client.orders.place({"keyboard": 1})
    assert asyncio.get_running_loop().time() - began < 1
    assert isinstance(failed.value.last, Unavailable)
    assert failed.value.key == server.keys[0]


async def test_call_with_a_long_answer_is_given_up_soon_if_it_is_refused(server: Server) -> None:
    policy = replace(POLICY, deadline_seconds=3600, attempt_seconds=3600, repeat_seconds=0.2)
    server.will(*[refuse(503, "unavailable")] * 100)
    async with Client(server.url, policy=policy) as client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(NoFinalAnswer) as failed:
            await client.orders.get(ORDER_ID)
    assert 0.2 <= asyncio.get_running_loop().time() - began < 1
    assert isinstance(failed.value.last, Unavailable)
    server.acts.clear()


async def test_deadline_holds_while_the_server_hangs(client: Client, server: Server) -> None:
    server.will(hang(1), hang(1))
    began = asyncio.get_running_loop().time()
    with pytest.raises(NoFinalAnswer):
        await client.orders.get(ORDER_ID, deadline_seconds=0.5)
    assert 0.4 < asyncio.get_running_loop().time() - began < 1


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (refuse(400, "out-of-stock", {"product_ids": ["keyboard"], "order_id": ORDER_ID}), OutOfStock),
        (refuse(401, "unauthenticated"), Unauthenticated),
        (refuse(422, "validation-failed", {"errors": [{"pointer": "/lines", "message": "x"}]}), ValidationFailed),
        (say(200, "<h1>Welcome</h1>"), UnexpectedAnswer),
        (say(201, '{"order_id": "x"}', "application/json"), UnexpectedAnswer),
        (say(201, "[]", "application/json"), UnexpectedAnswer),
        (say(404, "[]", "application/problem+json"), UnexpectedAnswer),
        (answer(307, {}, Location="/elsewhere"), UnexpectedAnswer),
    ],
)
async def test_final_answer_is_raised_at_once(client: Client, server: Server, act: Act, kind: type[Exception]) -> None:
    server.will(act)
    with pytest.raises(kind):
        await client.orders.place({"keyboard": 1})
    assert len(server.received) == 1


@pytest.mark.parametrize(("act", "kind"), [(BUG, InternalError), (say(500, "oops"), UnexpectedAnswer)])
async def test_bug_of_a_service_is_met_three_times_at_most(
    client: Client, server: Server, act: Act, kind: type[Exception]
) -> None:
    server.will(act, act, PLACED)
    assert (await client.orders.place({"keyboard": 1})).status == "PAID"
    server.will(act, act, act)
    with pytest.raises(NoFinalAnswer) as failed:
        await client.orders.place({"keyboard": 1})
    assert isinstance(failed.value.last, kind)
    assert failed.value.key == server.keys[-1]


@pytest.mark.parametrize("failure", [break_off, break_off_midway, hang(1), TEMPORARY["a service in trouble"], BUG])
async def test_stock_move_that_may_have_happened_is_never_repeated(
    client: Client, server: Server, failure: Act
) -> None:
    server.will(failure)
    with pytest.raises(OutcomeUnknown):
        await client.products.move_stock("keyboard", 5)
    assert len(server.received) == 1


async def test_stock_move_that_did_not_begin_is_repeated(client: Client, server: Server) -> None:
    server.will(refuse(429, "too-many-requests", Retry_After="0"), answer(200, PRODUCT))
    assert (await client.products.move_stock("keyboard", 5)).stock == 5


async def test_stock_move_without_a_connection_did_not_happen() -> None:
    async with Client(f"http://127.0.0.1:{free_port()}", policy=POLICY) as client:
        with pytest.raises(NoFinalAnswer):
            await client.products.move_stock("keyboard", 5, deadline_seconds=0.2)


async def test_stock_move_whose_connection_was_still_being_opened_did_not_happen() -> None:
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        place = listening.getsockname()
        full = stack.enter_context(socket.socket())
        full.connect(place)  # the only one that waits for its acceptance: the system answers no further ones
        client = await stack.enter_async_context(Client(f"http://127.0.0.1:{place[1]}", policy=POLICY))
        with pytest.raises(NoFinalAnswer):
            await client.products.move_stock("keyboard", 5, deadline_seconds=0.7)


async def test_product_that_an_earlier_attempt_created_counts_as_created(client: Client, server: Server) -> None:
    server.will(break_off, refuse(409, "product-exists"), answer(200, PRODUCT))
    made = await client.products.create(product_id="keyboard", name="Keyboard", price=45000, stock=5)
    assert made.product_id == "keyboard"


async def test_product_of_somebody_else_is_not_taken_for_the_own_one(client: Client, server: Server) -> None:
    server.will(break_off, refuse(409, "product-exists"), answer(200, PRODUCT | {"price": 1}))
    with pytest.raises(ProductExists):
        await client.products.create(product_id="keyboard", name="Keyboard", price=45000, stock=5)
    server.will(refuse(409, "product-exists"))
    with pytest.raises(ProductExists):
        await client.products.create(product_id="keyboard", name="Keyboard", price=45000, stock=5)


async def test_coupon_that_an_earlier_attempt_created_counts_as_created(client: Client, server: Server) -> None:
    server.will(break_off, refuse(409, "coupon-exists"), answer(200, COUPON))
    assert (await client.coupons.create(coupon_id="TEN", user_id="alice", kind="percent", value=10)).value == 10
    server.will(break_off, refuse(409, "coupon-exists"), answer(200, COUPON))
    with pytest.raises(CouponExists):
        await client.coupons.create(coupon_id="TEN", user_id="alice", kind="percent", value=20)


async def test_coupon_of_another_user_has_the_id_if_the_own_one_is_not_found(client: Client, server: Server) -> None:
    server.will(break_off, refuse(409, "coupon-exists"), refuse(404, "coupon-not-found"))
    with pytest.raises(CouponExists):
        await client.coupons.create(coupon_id="TEN", user_id="alice", kind="percent", value=10)


async def test_coupon_that_may_not_be_read_leaves_open_who_created_it(client: Client, server: Server) -> None:
    server.will(break_off, refuse(409, "coupon-exists"), refuse(403, "forbidden"))
    with pytest.raises(NoFinalAnswer) as unknown:
        await client.coupons.create(coupon_id="TEN", user_id="alice", kind="percent", value=10)
    assert isinstance(unknown.value.last, Forbidden)


async def test_product_that_may_not_be_read_leaves_open_who_created_it(client: Client, server: Server) -> None:
    server.will(break_off, refuse(409, "product-exists"), refuse(403, "forbidden"))
    with pytest.raises(NoFinalAnswer) as unknown:
        await client.products.create(product_id="keyboard", name="Keyboard", price=45000, stock=5)
    assert isinstance(unknown.value.last, Forbidden)


async def test_objects_get_an_id_that_stays_the_same_in_repetitions(client: Client, server: Server) -> None:
    server.will(break_off, answer(201, PRODUCT))
    await client.products.create(name="Keyboard", price=45000, stock=5)
    first, second = server.received
    assert b'"product_id"' in first.body
    assert first.body == second.body


@pytest.mark.parametrize("act", [refuse(401, "unauthenticated"), say(404, "<h1>Not here</h1>")])
async def test_refusal_without_a_word_about_the_first_attempt_leaves_its_outcome_open(
    client: Client, server: Server, act: Act
) -> None:
    server.will(break_off, act)
    with pytest.raises(NoFinalAnswer) as failed:
        await client.orders.place({"keyboard": 1})
    assert failed.value.key == server.keys[0]
    server.will(break_off, refuse(400, "out-of-stock", {"product_ids": ["keyboard"]}))
    with pytest.raises(OutOfStock):
        await client.orders.place({"keyboard": 1})


async def test_token_is_asked_for_before_each_attempt(server: Server) -> None:
    tokens = iter(["old", "new"])

    async def token() -> str:
        return next(tokens)

    server.will(refuse(503, "unavailable", Retry_After="0"), PLACED)
    async with Client(server.url, policy=POLICY, token=token) as client:
        await client.orders.place({"keyboard": 1})
    assert [one.headers["Authorization"] for one in server.received] == ["Bearer old", "Bearer new"]


async def test_what_the_token_s_callable_raises_passes_through(server: Server) -> None:
    def token() -> str:
        raise LookupError("no token")

    async with Client(server.url, policy=POLICY, token=token) as client:
        with pytest.raises(LookupError):
            await client.orders.place({"keyboard": 1})


async def test_stock_move_whose_token_is_late_did_not_happen(server: Server) -> None:
    async def token() -> str:
        await asyncio.sleep(1)
        return "late"

    async with Client(server.url, policy=POLICY, token=token) as client:
        with pytest.raises(NoFinalAnswer):
            await client.products.move_stock("keyboard", 5, deadline_seconds=0.4)
    assert server.received == []


async def test_cancellation_of_the_caller_s_task_ends_a_call(client: Client, server: Server) -> None:
    server.will(hang(1))
    call = asyncio.create_task(client.orders.get(ORDER_ID))
    while not server.received:  # noqa: ASYNC110 # the server runs in this loop
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_lists_are_read_page_by_page_and_each_page_is_repeated(client: Client, server: Server) -> None:
    one, two = an_order(), an_order("EXPIRED")
    failure = refuse(503, "unavailable", Retry_After="0")
    server.will(answer(200, {"items": [one], "next_cursor": "0a"}), failure)
    server.will(answer(200, {"items": [two], "next_cursor": None}))
    found = [order.status async for order in client.orders.list(user_id="a+b", page_size=1)]
    assert found == ["PAID", "EXPIRED"]
    assert [one.path for one in server.received[1:]] == ["/v1/orders?user_id=a%2Bb&limit=1&cursor=0a"] * 2


async def test_ids_in_paths_arrive_as_they_are_encoded(client: Client, server: Server) -> None:
    server.will(answer(200, PRODUCT))
    await client.products.get("a/b.c é%")
    assert server.received[0].path == "/v1/products/a%2Fb%2Ec%20%C3%A9%25"


async def test_unknown_fields_of_answers_are_ignored(client: Client, server: Server) -> None:
    server.will(answer(200, an_order(colour="red")))
    assert not hasattr(await client.orders.get(ORDER_ID), "colour")


async def test_quota_that_stays_used_up_is_named_when_the_time_is_up(server: Server) -> None:
    server.will(refuse(429, "too-many-requests", Retry_After="60"))
    urls = {Service.ORDER: server.url}
    own = aiohttp.ClientSession(raise_for_status=True)
    async with own as session, Client(urls, session=session, policy=Policy()) as client:
        with pytest.raises(NoFinalAnswer) as failed:
            await client.orders.pay(ORDER_ID)
        await client.close()
        assert not session.closed, "the session belongs to the caller"
    assert isinstance(failed.value.last, TooManyRequests)
