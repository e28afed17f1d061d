"""The same Idempotency-Key and body: the same final answer, and one effect."""

import asyncio
import signal
from typing import Any

import pytest

from tests.infrastructure.services import Answer
from tests.infrastructure.shopping import PATIENCE_SECONDS, a_product, a_user, an_order, new_id
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import eventually


def key(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


async def place(shop: Shop, body: dict[str, Any], value: str) -> Answer:
    return await shop.order.call("POST", "/v1/orders", body, headers=key(value))


def same(one: Answer, other: Answer) -> bool:
    return (one.status, one.body, one.content_type, one.headers.get("Location")) == (
        other.status,
        other.body,
        other.content_type,
        other.headers.get("Location"),
    )


async def test_a_repeated_order_is_answered_the_same_and_placed_once(shop: Shop) -> None:
    user, product, value = await a_user(shop), await a_product(shop), new_id("key")
    body = an_order(user, product)
    first, second = await place(shop, body, value), await place(shop, body, value)
    assert first.status == 201
    assert same(first, second)
    assert len(await shop.order.all_items("/v1/orders", user_id=user)) == 1


async def test_a_quoted_key_is_the_same_as_a_bare_one(shop: Shop) -> None:
    body, value = an_order(await a_user(shop), await a_product(shop)), new_id("key")
    assert same(await place(shop, body, value), await place(shop, body, f'"{value}"'))


async def test_the_formatting_of_the_body_does_not_matter_but_its_meaning_does(shop: Shop) -> None:
    user, product, value = await a_user(shop), await a_product(shop), new_id("key")
    first = await place(shop, an_order(user, product), value)
    formatted = f'{{ "lines" : [{{"quantity":1,"product_id":"{product}"}}],  "user_id":"{user}", "payment":"now" }}'
    headers = key(value) | {"Content-Type": "application/json"}
    second = await shop.order.call("POST", "/v1/orders", data=formatted, headers=headers)
    assert same(first, second)
    other = await place(shop, an_order(user, product, payment="later"), value)
    assert (other.status, other.problem) == (422, "idempotency-key-reused")


async def test_a_refusal_is_a_final_answer(shop: Shop) -> None:
    user, product, value = await a_user(shop), await a_product(shop, stock=0), new_id("key")
    first = await place(shop, an_order(user, product), value)
    assert first.problem == "out-of-stock"
    await shop.product.post(f"/v1/products/{product}/stock", {"delta": 5})
    assert same(first, await place(shop, an_order(user, product), value))
    assert (await place(shop, an_order(user, product), new_id("key"))).status == 201


async def test_a_key_belongs_to_its_user_and_its_operation(shop: Shop) -> None:
    product, value = await a_product(shop), new_id("key")
    bodies = [an_order(await a_user(shop), product, payment="later") for _ in range(2)]
    placed = [await place(shop, body, value) for body in bodies]
    assert [answer.status for answer in placed] == [201, 201]
    path = f"/v1/orders/{placed[0].body['order_id']}"
    paid = await shop.order.call("POST", f"{path}/payment", headers=key(value))
    assert paid.body["status"] == "PAID"
    refunded = await shop.order.call("POST", f"{path}/cancel", headers=key(value))
    assert refunded.body["status"] == "REFUNDED"
    # Each key still gets its own answer, although the order has changed since.
    assert same(placed[0], await place(shop, bodies[0], value))
    assert same(paid, await shop.order.call("POST", f"{path}/payment", headers=key(value)))


@pytest.mark.parametrize("operation", ["payment", "cancel"])
async def test_a_key_of_one_order_can_not_be_used_for_another(shop: Shop, operation: str) -> None:
    user, product, value = await a_user(shop), await a_product(shop), new_id("key")
    orders = [(await place(shop, an_order(user, product, payment="later"), new_id("key"))).body for _ in range(2)]
    first, other = (f"/v1/orders/{order['order_id']}/{operation}" for order in orders)
    assert (await shop.order.call("POST", first, headers=key(value))).status == 200
    answer = await shop.order.call("POST", other, headers=key(value))
    assert (answer.status, answer.problem) == (422, "idempotency-key-reused")


async def test_paying_again_after_a_charge_takes_a_new_key(shop: Shop) -> None:
    user, product, value = await a_user(shop, 0), await a_product(shop), new_id("key")
    placed = await place(shop, an_order(user, product, payment="later"), new_id("key"))
    path = f"/v1/orders/{placed.body['order_id']}/payment"
    first = await shop.order.call("POST", path, headers=key(value))
    assert first.problem == "insufficient-balance"
    await shop.balance.post(f"/v1/accounts/{user}/charges", {"amount": 1000})
    assert same(first, await shop.order.call("POST", path, headers=key(value)))
    assert (await shop.order.call("POST", path, headers=key(new_id("key")))).body["status"] == "PAID"


@pytest.mark.parametrize(
    ("operation", "problem"), [("payment", "order-not-payable"), ("cancel", "order-not-cancellable")]
)
async def test_refusal_by_the_order_s_state_is_repeated_unchanged(shop: Shop, operation: str, problem: str) -> None:
    user, product, value = await a_user(shop), await a_product(shop, stock=0), new_id("key")
    rejected = await place(shop, an_order(user, product), new_id("key"))
    path = f"/v1/orders/{rejected.body['order_id']}/{operation}"
    first = await shop.order.call("POST", path, headers=key(value))
    assert first.problem == problem
    assert same(first, await shop.order.call("POST", path, headers=key(value)))
    assert same(first, await shop.order.call("POST", path))


async def test_running_operation_is_in_progress_also_after_a_crash(stack: Stack, shop: Shop) -> None:
    user, product, value = await a_user(shop), await a_product(shop), new_id("key")
    body = an_order(user, product)
    stack.signal("product", signal.SIGSTOP)
    try:
        call = asyncio.create_task(place(shop, body, value))

        async def begun() -> bool:
            return len(await shop.order.all_items("/v1/orders", user_id=user)) == 1

        await eventually(begun, PATIENCE_SECONDS, "the order")
        repeated = await place(shop, body, value)
        assert (repeated.status, repeated.problem) == (409, "idempotency-in-progress")
        assert int(repeated.headers["Retry-After"]) >= 1
        killed = stack.signal("order", signal.SIGKILL)
    finally:
        stack.signal("product", signal.SIGCONT)
    await asyncio.gather(call, return_exceptions=True)
    await stack.restarted("order", killed)

    async def answered() -> Answer | None:
        answer = await place(shop, body, value)
        return None if answer.status in (202, 409) else answer

    answer = await eventually(answered, PATIENCE_SECONDS, "the final answer")
    assert answer is not None
    assert answer.status == 201
    assert len(await shop.order.all_items("/v1/orders", user_id=user)) == 1


@pytest.mark.parametrize("value", ["", " ", "x" * 256, '"', '"open', '"a"b"', '"bad \\escape"', "tab\there"])
async def test_a_malformed_key_is_refused(shop: Shop, value: str) -> None:
    answer = await place(shop, an_order("ann", "cup"), value)
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert answer.body["errors"][0]["pointer"] == "/headers/Idempotency-Key"


async def test_a_key_that_is_given_twice_is_refused(shop: Shop) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    answer = await shop.order.call("POST", "/v1/orders", an_order("ann", "cup"), headers=headers)
    assert (answer.status, answer.problem) == (422, "validation-failed")


@pytest.mark.parametrize("value", ["x" * 255, "a b", "ключ", '"with \\"quotes\\""'])
async def test_a_key_may_be_any_text_of_up_to_255_characters(shop: Shop, value: str) -> None:
    user, product = await a_user(shop), await a_product(shop)
    first = await place(shop, an_order(user, product), value)
    assert first.status == 201
    assert same(first, await place(shop, an_order(user, product), value))
