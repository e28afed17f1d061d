"""An operation that was answered with 202 is followed to its end, and its final answer is returned or raised."""

from uuid import UUID

import pytest

from deploy.client import Client, NoFinalAnswer
from deploy.client.problems import InsufficientBalance, OutOfStock
from tests.integration.client.samples import ORDER_ID, an_order
from tests.integration.client.server import Act, Server, answer, break_off, refuse, say


async def test_placement_is_followed_until_the_order_is_placed(client: Client, server: Server) -> None:
    server.will(answer(202, an_order("PLACING")))
    server.will(answer(200, an_order("PLACING")), break_off, answer(200, an_order()))
    server.will(answer(201, an_order()))
    assert (await client.orders.place({"keyboard": 1})).status == "PAID"
    assert [one.method for one in server.received] == ["POST", "GET", "GET", "GET", "POST"]
    assert server.keys[0] == server.keys[-1]
    assert server.received[0].body == server.received[-1].body


async def test_refusal_after_202_is_raised_with_its_members(client: Client, server: Server) -> None:
    server.will(answer(202, an_order("PLACING")), answer(200, an_order("REJECTED", reason="out-of-stock")))
    server.will(refuse(400, "out-of-stock", {"product_ids": ["keyboard"], "order_id": ORDER_ID}))
    with pytest.raises(OutOfStock) as refused:
        await client.orders.place({"keyboard": 1})
    assert (refused.value.product_ids, refused.value.order_id) == (["keyboard"], UUID(ORDER_ID))


async def test_payment_that_failed_after_202_is_not_attempted_anew(client: Client, server: Server) -> None:
    server.will(answer(202, an_order("PAYING")), answer(200, an_order("PENDING_PAYMENT")))
    server.will(refuse(400, "insufficient-balance", {"required": 9, "available": 1, "order_id": ORDER_ID}))
    with pytest.raises(InsufficientBalance) as refused:
        await client.orders.pay(ORDER_ID)
    assert (refused.value.required, refused.value.available) == (9, 1)
    assert server.keys[0] == server.keys[2], "with another key, it would be another payment"


async def test_cancellation_is_followed_until_nothing_is_closing(client: Client, server: Server) -> None:
    server.will(answer(202, an_order(closing=True)), answer(200, an_order(closing=True)))
    server.will(answer(200, an_order("REFUNDED")), answer(200, an_order("REFUNDED")))
    assert (await client.orders.cancel(ORDER_ID)).status == "REFUNDED"
    assert {one.path for one in server.received} == {f"/v1/orders/{ORDER_ID}", f"/v1/orders/{ORDER_ID}/cancel"}


async def test_deadline_while_following_names_order_and_key(client: Client, server: Server) -> None:
    server.will(answer(202, an_order("PLACING")), *[answer(200, an_order("PLACING"))] * 100)
    with pytest.raises(NoFinalAnswer) as failed:
        await client.orders.place({"keyboard": 1}, deadline_seconds=0.3)
    assert (failed.value.order_id, failed.value.key) == (UUID(ORDER_ID), server.keys[0])
    server.acts.clear()


async def test_operation_that_is_still_under_way_when_asked_again_is_followed_on(
    client: Client, server: Server
) -> None:
    server.will(answer(202, an_order("PLACING")), answer(200, an_order()))
    server.will(refuse(409, "idempotency-in-progress", Retry_After="0"), answer(202, an_order("PLACING")))
    server.will(answer(200, an_order()), answer(201, an_order()))
    assert (await client.orders.place({"keyboard": 1})).status == "PAID"


@pytest.mark.parametrize("read", [True, False], ids=["when the order is read", "when the request is repeated"])
@pytest.mark.parametrize("act", [refuse(401, "unauthenticated"), say(404, "<h1>Not here</h1>")])
async def test_operation_whose_end_can_t_be_seen_keeps_its_key(
    client: Client, server: Server, act: Act, read: bool
) -> None:
    server.will(answer(202, an_order("PLACING")), *([] if read else [answer(200, an_order())]), act)
    with pytest.raises(NoFinalAnswer) as failed:
        await client.orders.place({"keyboard": 1})
    assert (failed.value.order_id, failed.value.key) == (UUID(ORDER_ID), server.keys[0])
