"""Many concurrent customers want the same: nothing is sold twice, and every request gets an answer."""

import random
from collections import Counter

from tests.infrastructure.books import violations
from tests.infrastructure.shopping import (
    a_coupon,
    a_product,
    a_user,
    an_order,
    new_id,
    order_concurrently,
    wait_until_sagas_ended,
)
from tests.infrastructure.stack import Shop, Stack

SEED = 20260501


async def test_five_of_sixty_buyers_get_the_last_five_units(stack: Stack, shop: Shop) -> None:
    product = await a_product(shop, stock=5)
    users = [await a_user(shop) for _ in range(60)]
    answers = await order_concurrently(shop, [an_order(user, product) for user in users])
    assert Counter(answer.status for answer in answers) == {201: 5, 400: 55}
    assert {answer.problem for answer in answers if answer.status == 400} == {"out-of-stock"}
    assert (await shop.product.get(f"/v1/products/{product}"))["stock"] == 0
    await wait_until_sagas_ended(stack)
    assert await violations(stack.database.url) == []


async def test_a_coupon_is_used_by_one_of_twenty_orders(stack: Stack, shop: Shop) -> None:
    product, user = await a_product(shop), await a_user(shop)
    coupon = await a_coupon(shop, user)
    answers = await order_concurrently(shop, [an_order(user, product, coupon_id=coupon) for _ in range(20)])
    assert Counter(answer.status for answer in answers) == {201: 1, 400: 19}
    assert {answer.body["reason"] for answer in answers if answer.status == 400} == {"already-used"}
    winner = next(answer.body for answer in answers if answer.status == 201)
    assert (await shop.coupon.get(f"/v1/coupons/{coupon}"))["order_id"] == winner["order_id"]
    assert (await shop.balance.get(f"/v1/accounts/{user}"))["balance"] == 1_000_000 - 90
    await wait_until_sagas_ended(stack)
    assert await violations(stack.database.url) == []


async def test_fifty_copies_of_a_request_with_one_key_are_one_order(stack: Stack, shop: Shop) -> None:
    product, user = await a_product(shop), await a_user(shop)
    headers = {"Idempotency-Key": new_id("key")}
    answers = await order_concurrently(shop, [an_order(user, product)] * 50, headers=headers)
    assert {answer.status for answer in answers} <= {201, 409}
    assert {answer.problem for answer in answers if answer.status == 409} <= {"idempotency-in-progress"}
    placed = {answer.body["order_id"] for answer in answers if answer.status == 201}
    assert len(placed) == 1
    orders = await shop.order.all_items("/v1/orders", user_id=user)
    assert [order["order_id"] for order in orders] == list(placed)
    again = (await order_concurrently(shop, [an_order(user, product)], headers=headers))[0]
    assert (again.status, again.body) == (201, orders[0])
    await wait_until_sagas_ended(stack)
    assert await violations(stack.database.url) == []


async def test_three_hundred_orders_with_crossing_lines_all_succeed(stack: Stack, shop: Shop) -> None:
    rng = random.Random(SEED)
    products = [await a_product(shop) for _ in range(8)]
    users = [await a_user(shop) for _ in range(10)]
    bodies = [an_order(rng.choice(users), *rng.sample(products, rng.randint(2, 8))) for _ in range(300)]
    answers = await order_concurrently(shop, bodies)
    assert Counter(answer.status for answer in answers) == {201: 300}
    await wait_until_sagas_ended(stack)
    assert await violations(stack.database.url) == []
