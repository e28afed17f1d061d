"""For a router of a platform with several cells, the client says of whom or of which product a request is."""

from hypothesis import given
from hypothesis import strategies as st

from deploy.client import Client
from deploy.client.coupons import CREATE
from deploy.client.models import NewCoupon
from deploy.client.transport import Request
from shared.slots import slot_of
from tests.integration.client.samples import COUPON, ORDER_ID, PRODUCT, an_order
from tests.integration.client.server import Server, answer, break_off, refuse

PLACED = answer(201, an_order())


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_slot_of_the_client_is_the_platforms(user_id: str) -> None:
    body = NewCoupon(coupon_id="C1", user_id=user_id, kind="fixed", value=1)
    assert Request(CREATE, body=body).slot == slot_of(user_id)


async def test_request_whose_body_names_somebody_or_a_product_has_its_slot(client: Client, server: Server) -> None:
    server.will(PLACED, PLACED, answer(201, COUPON), answer(201, PRODUCT), answer(200, an_order()))
    await client.orders.place({"keyboard": 1}, user_id="alice")
    await client.orders.place({"keyboard": 1})
    await client.coupons.create(user_id="alice", kind="fixed", value=1)
    await client.products.create(product_id="cup", name="Cup", price=1, stock=1)
    await client.orders.get(ORDER_ID)
    slots = [one.headers.get("X-Slot") for one in server.received]
    assert slots == [str(slot_of("alice")), None, str(slot_of("alice")), str(slot_of("cup")), None]


async def test_coupon_is_read_with_its_user_where_it_may_have_been_made(client: Client, server: Server) -> None:
    user_id = "김 민수"
    server.will(break_off, refuse(409, "coupon-exists"), answer(200, {**COUPON, "user_id": user_id}))
    await client.coupons.create(coupon_id="TEN", user_id=user_id, kind="percent", value=10)
    assert server.received[-1].path.endswith("?user_id=%EA%B9%80+%EB%AF%BC%EC%88%98")


async def test_coupon_is_read_with_or_without_its_user(client: Client, server: Server) -> None:
    server.will(answer(200, COUPON), answer(200, COUPON))
    await client.coupons.get("C1")
    await client.coupons.get("C1", user_id="alice")
    assert [one.path for one in server.received] == ["/v1/coupons/C1", "/v1/coupons/C1?user_id=alice"]
