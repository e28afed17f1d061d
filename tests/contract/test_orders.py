"""The promises to clients about orders: every call, its success and its refusals, which change nothing."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from tests.contract.customers import Customer
from tests.infrastructure.shopping import PATIENCE_SECONDS, a_coupon, a_product, a_user, an_order, new_id
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import eventually

NOBODY = "00000000-0000-7000-8000-000000000000"
ORDER_FIELDS = {
    *("order_id", "user_id", "status", "lines", "subtotal_amount", "discount_amount", "total_amount", "currency"),
    "created_at",
}


UNTOUCHED = (10, "AVAILABLE", 1000)


async def test_order_is_paid_when_it_is_placed(customer: Customer) -> None:
    answer = await customer.place(2)
    order = answer.body
    assert (answer.status, answer.headers["Location"]) == (201, f"/v1/orders/{order['order_id']}")
    assert set(order) == ORDER_FIELDS | {"coupon_id", "paid_at"}
    assert (order["status"], order["user_id"], order["coupon_id"]) == ("PAID", customer.user, customer.coupon)
    assert order["lines"] == [
        {"product_id": customer.product, "name": "Thing", "quantity": 2, "unit_price": 100, "line_amount": 200}
    ]
    amounts = (order["subtotal_amount"], order["discount_amount"], order["total_amount"], order["currency"])
    assert amounts == (200, 20, 180, "KRW")
    assert UUID(order["order_id"]).version == 7
    assert await customer.has() == (8, "REDEEMED", 820)
    assert await customer.shop.order.get(answer.headers["Location"]) == order


async def test_order_without_a_coupon_has_no_coupon_fields(customer: Customer) -> None:
    answer = await customer.place(coupon_id=None)
    assert set(answer.body) == ORDER_FIELDS | {"paid_at"}
    assert answer.body["total_amount"] == 100


async def test_an_unknown_product_is_not_found_and_named(customer: Customer) -> None:
    unknown = new_id("product")
    answer = await customer.place(lines=[{"product_id": p, "quantity": 1} for p in (unknown, customer.product)])
    assert (answer.status, answer.problem, answer.body["product_ids"]) == (404, "product-not-found", [unknown])
    assert await customer.has() == UNTOUCHED


async def test_a_product_that_is_out_of_stock_is_named_and_the_other_lines_are_not_held(customer: Customer) -> None:
    scarce = await a_product(customer.shop, stock=1)
    lines = [{"product_id": customer.product, "quantity": 3}, {"product_id": scarce, "quantity": 2}]
    answer = await customer.place(lines=lines)
    assert (answer.status, answer.problem, answer.body["product_ids"]) == (400, "out-of-stock", [scarce])
    assert await customer.has() == UNTOUCHED


async def test_too_low_balance_is_reported_and_all_steps_are_undone(customer: Customer) -> None:
    dear = await a_product(customer.shop, price=1112)
    answer = await customer.place(lines=[{"product_id": dear, "quantity": 1}])
    assert (answer.status, answer.problem) == (400, "insufficient-balance")
    assert (answer.body["required"], answer.body["available"]) == (1001, 1000)
    assert await customer.has() == UNTOUCHED
    assert (await customer.shop.product.get(f"/v1/products/{dear}"))["stock"] == 1_000_000


async def test_payment_by_a_user_without_an_account_is_refused(customer: Customer) -> None:
    answer = await customer.place(user_id=new_id("stranger"), coupon_id=None)
    assert (answer.problem, answer.body["required"], answer.body["available"]) == ("insufficient-balance", 100, 0)


async def spoiled_coupon(customer: Customer, reason: str) -> str:
    """Create a coupon that can't be used, for this reason."""
    shop, user = customer.shop, customer.user
    if reason == "not-found":
        return new_id("coupon")
    if reason == "not-owner":
        return await a_coupon(shop, new_id("user"))
    if reason == "expired":
        return await a_coupon(shop, user, expires_at=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
    if reason == "below-minimum":
        return await a_coupon(shop, user, min_subtotal=101)
    coupon_id = await a_coupon(shop, user)
    payment = {"already-used": "now", "reserved": "later"}[reason]
    assert (await customer.place(coupon_id=coupon_id, payment=payment)).status == 201
    return coupon_id


@pytest.mark.parametrize("payment", ["now", "later"])
@pytest.mark.parametrize("reason", ["not-found", "not-owner", "expired", "already-used", "reserved", "below-minimum"])
async def test_refusal_of_a_coupon_gives_the_reason(customer: Customer, reason: str, payment: str) -> None:
    coupon_id = await spoiled_coupon(customer, reason)
    before = await customer.has()
    answer = await customer.place(coupon_id=coupon_id, payment=payment)
    assert (answer.status, answer.problem, answer.body["reason"]) == (400, "invalid-coupon", reason)
    assert await customer.has() == before


async def test_rejected_order_is_stored_and_its_problem_has_its_id(customer: Customer) -> None:
    answer = await customer.place(11)
    order = await customer.shop.order.get(f"/v1/orders/{answer.body['order_id']}")
    assert (order["status"], order["reason"]) == ("REJECTED", "out-of-stock")
    assert order["subtotal_amount"] is None


async def test_a_percentage_is_floored_and_no_discount_exceeds_the_subtotal(customer: Customer) -> None:
    shop, user = customer.shop, customer.user
    cheap = [{"product_id": await a_product(shop, price=19), "quantity": 1}]
    floored = await customer.place(lines=cheap)
    assert (floored.body["discount_amount"], floored.body["total_amount"]) == (1, 18)
    large = await a_coupon(shop, user, kind="fixed", value=2**63 - 1)
    free = await customer.place(lines=cheap, coupon_id=large)
    assert (free.status, free.body["discount_amount"], free.body["total_amount"]) == (201, 19, 0)


async def test_an_order_of_total_0_is_paid_without_a_debit(customer: Customer) -> None:
    gift = await a_product(customer.shop, price=0)
    answer = await customer.place(
        user_id=new_id("stranger"), coupon_id=None, lines=[{"product_id": gift, "quantity": 5}]
    )
    assert (answer.status, answer.body["status"], answer.body["total_amount"]) == (201, "PAID", 0)


async def test_an_amount_that_no_account_can_hold_is_refused(customer: Customer) -> None:
    moon = await a_product(customer.shop, price=2**63 - 1)
    answer = await customer.place(lines=[{"product_id": moon, "quantity": 2}])
    assert (answer.status, answer.problem) == (400, "amount-too-large")
    assert (await customer.shop.product.get(f"/v1/products/{moon}"))["stock"] == 1_000_000


async def test_an_order_can_be_paid_later(customer: Customer) -> None:
    placed = (await customer.place(payment="later")).body
    assert placed["status"] == "PENDING_PAYMENT"
    assert set(placed) == ORDER_FIELDS | {"coupon_id", "expires_at"}
    age = datetime.fromisoformat(placed["expires_at"]) - datetime.fromisoformat(placed["created_at"])
    assert age == timedelta(seconds=900)
    assert await customer.has() == (9, "RESERVED", 1000)
    paid = await customer.shop.order.call("POST", f"/v1/orders/{placed['order_id']}/payment")
    assert (paid.status, paid.body["status"]) == (200, "PAID")
    assert set(paid.body) == set(placed) | {"paid_at"}
    assert await customer.has() == (9, "REDEEMED", 910)


async def test_a_repeated_payment_is_answered_the_same_and_paid_once(customer: Customer) -> None:
    path = await customer.later()
    first = await customer.shop.order.call("POST", f"{path}/payment")
    second = await customer.shop.order.call("POST", f"{path}/payment")
    assert (first.status, first.body) == (second.status, second.body)
    assert (await customer.has())[2] == 910


async def test_refused_payment_succeeds_after_a_charge(customer: Customer) -> None:
    shop, poor = customer.shop, await a_user(customer.shop, 0)
    placed = await customer.place(user_id=poor, coupon_id=None, payment="later")
    path = f"/v1/orders/{placed.body['order_id']}"
    refused = await shop.order.call("POST", f"{path}/payment")
    assert (refused.status, refused.problem) == (400, "insufficient-balance")
    assert (refused.body["required"], refused.body["available"]) == (100, 0)
    assert (await shop.order.get(path))["status"] == "PENDING_PAYMENT"
    await shop.balance.post(f"/v1/accounts/{poor}/charges", {"amount": 100})
    assert (await shop.order.call("POST", f"{path}/payment")).body["status"] == "PAID"


async def test_prices_names_and_the_coupon_are_fixed_when_the_order_is_placed(customer: Customer) -> None:
    path = await customer.later()
    await customer.shop.product.call("PATCH", f"/v1/products/{customer.product}", {"name": "Dear thing", "price": 999})
    paid = await customer.shop.order.call("POST", f"{path}/payment")
    assert (paid.body["lines"][0]["name"], paid.body["total_amount"]) == ("Thing", 90)


async def test_order_not_paid_in_time_expires_and_releases_all_holds(customer: Customer, stack: Stack) -> None:
    path = await customer.later()
    connection = await asyncpg.connect(stack.database.url)
    await connection.execute(
        "UPDATE orders.orders SET expires_at = clock_timestamp() WHERE order_id = $1", path.rpartition("/")[2]
    )
    await connection.close()

    async def expired() -> bool:
        return bool((await customer.shop.order.get(path))["status"] == "EXPIRED")

    await eventually(expired, PATIENCE_SECONDS, "the expiry")
    assert await customer.has() == UNTOUCHED
    for call, problem in (("payment", "order-expired"), ("cancel", "order-not-cancellable")):
        answer = await customer.shop.order.call("POST", f"{path}/{call}")
        assert (answer.status, answer.problem) == (409, problem)


async def test_an_unpaid_order_is_cancelled(customer: Customer) -> None:
    path = await customer.later()
    first = await customer.shop.order.call("POST", f"{path}/cancel")
    assert (first.status, first.body["status"]) == (200, "CANCELLED")
    assert "closing" not in first.body
    assert await customer.has() == UNTOUCHED
    again = await customer.shop.order.call("POST", f"{path}/cancel")
    assert (again.status, again.body) == (200, first.body)


async def test_a_paid_order_is_refunded(customer: Customer) -> None:
    path = f"/v1/orders/{(await customer.place(3)).body['order_id']}"
    first = await customer.shop.order.call("POST", f"{path}/cancel")
    assert (first.status, first.body["status"]) == (200, "REFUNDED")
    assert await customer.has() == UNTOUCHED
    again = await customer.shop.order.call("POST", f"{path}/cancel")
    assert (again.status, again.body) == (200, first.body)
    entries = await customer.shop.balance.all_items(f"/v1/accounts/{customer.user}/entries")
    assert [(entry["kind"], entry["amount"]) for entry in entries] == [
        ("refund", 270),
        ("debit", -270),
        ("charge", 1000),
    ]


@pytest.mark.parametrize("status", ["REJECTED", "CANCELLED", "REFUNDED"])
async def test_an_order_that_has_ended_can_not_be_paid(customer: Customer, status: str) -> None:
    answer = await customer.place(11 if status == "REJECTED" else 1, payment="now" if status == "REFUNDED" else "later")
    path = f"/v1/orders/{answer.body['order_id']}"
    if status != "REJECTED":
        assert (await customer.shop.order.call("POST", f"{path}/cancel")).body["status"] == status
    refused = await customer.shop.order.call("POST", f"{path}/payment")
    assert (refused.status, refused.problem) == (409, "order-not-payable")


async def test_a_rejected_order_can_not_be_cancelled(customer: Customer) -> None:
    path = f"/v1/orders/{(await customer.place(11)).body['order_id']}"
    answer = await customer.shop.order.call("POST", f"{path}/cancel")
    assert (answer.status, answer.problem) == (409, "order-not-cancellable")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("GET", "/timeline"), ("POST", "/payment"), ("POST", "/cancel")]
)
@pytest.mark.parametrize("order_id", [NOBODY, "not-a-uuid"])
async def test_an_unknown_order_is_not_found(shop: Shop, method: str, path: str, order_id: str) -> None:
    answer = await shop.order.call(method, f"/v1/orders/{order_id}{path}")
    assert (answer.status, answer.problem) == (404, "order-not-found")


async def test_orders_are_listed_newest_first_page_by_page_by_user_and_status(customer: Customer) -> None:
    shop, user = customer.shop, customer.user
    placed = [(await customer.place(coupon_id=None, payment=payment)).body for payment in ("now", "later") * 3]
    listed = await shop.order.all_items("/v1/orders", user_id=user, limit=4)
    assert listed == placed[::-1]
    paid = await shop.order.all_items("/v1/orders", user_id=user, status="PAID", limit=2)
    assert paid == placed[::2][::-1]
    newest = await shop.order.get("/v1/orders", status="PENDING_PAYMENT", limit=1)
    assert newest["items"] == [placed[-1]]
    assert await shop.order.get("/v1/orders", user_id=new_id("user")) == {"items": [], "next_cursor": None}


async def test_timeline_lists_the_sagas_steps(customer: Customer) -> None:
    path = await customer.later()
    await customer.shop.order.call("POST", f"{path}/payment")
    await customer.shop.order.call("POST", f"{path}/cancel")
    items = (await customer.shop.order.get(f"{path}/timeline"))["items"]
    assert [(item["step"], item["outcome"]) for item in items] == [
        ("place_later", "started"),
        ("hold_stock", "applied"),
        ("reserve_coupon", "applied"),
        ("place_later", "done"),
        ("pay", "started"),
        ("debit", "applied"),
        ("redeem_coupon", "applied"),
        ("pay", "done"),
        ("close", "started"),
        ("refund", "applied"),
        ("release_coupon", "applied"),
        ("restore_stock", "applied"),
        ("close", "compensated"),
    ]
    times = [datetime.fromisoformat(item["at"]) for item in items]
    assert times == sorted(times)


async def test_timeline_of_a_refused_order_has_the_reason(customer: Customer) -> None:
    answer = await customer.place(11)
    items = (await customer.shop.order.get(f"/v1/orders/{answer.body['order_id']}/timeline"))["items"]
    assert [(item["step"], item["outcome"], item["detail"]) for item in items][1:] == [
        ("hold_stock", "refused", answer.body["detail"]),
        ("place_now", "compensated", answer.body["detail"]),
    ]


async def test_every_line_is_held_and_priced(customer: Customer) -> None:
    products = [await a_product(customer.shop, price=n) for n in range(1, 51)]
    answer = await customer.shop.order.call("POST", "/v1/orders", an_order(customer.user, *products))
    assert answer.status == 400  # the total is 1275, and the customer has 1000
    assert (answer.problem, answer.body["required"]) == ("insufficient-balance", 1275)
    stocks = [(await customer.shop.product.get(f"/v1/products/{product}"))["stock"] for product in products]
    assert set(stocks) == {1_000_000}
