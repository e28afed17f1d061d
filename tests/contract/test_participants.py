"""The promises to clients about products, coupons and balances: each call of the contract, and its refusals."""

from typing import Any

import pytest

from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order, new_id
from tests.infrastructure.stack import Shop

PRODUCT_FIELDS = {"product_id", "name", "price", "stock", "currency"}


async def test_products_are_added_read_changed_and_stocked(shop: Shop) -> None:
    product_id = new_id("product")
    new = {"product_id": product_id, "name": "Cup", "price": 100, "stock": 5}
    added = await shop.product.call("POST", "/v1/products", new)
    assert (added.status, added.body) == (201, {**new, "currency": "KRW"})
    assert await shop.product.get(f"/v1/products/{product_id}") == added.body
    changed = await shop.product.call("PATCH", f"/v1/products/{product_id}", {"name": "Mug", "price": 0})
    assert (changed.status, changed.body) == (200, {**added.body, "name": "Mug", "price": 0})
    stocked = await shop.product.call("POST", f"/v1/products/{product_id}/stock", {"delta": -5})
    assert (stocked.status, stocked.body["stock"]) == (200, 0)
    below = await shop.product.call("POST", f"/v1/products/{product_id}/stock", {"delta": -1})
    assert (below.status, below.problem) == (400, "out-of-stock")
    again = await shop.product.call("POST", "/v1/products", new)
    assert (again.status, again.problem) == (409, "product-exists")


async def test_a_product_without_an_id_gets_one_and_is_listed(shop: Shop) -> None:
    added = await shop.product.post("/v1/products", {"name": "Cup", "price": 0, "stock": 0})
    assert set(added) == PRODUCT_FIELDS
    assert added in await shop.product.all_items("/v1/products", limit=100)


async def test_stock_excludes_held_units(shop: Shop) -> None:
    user, product = await a_user(shop), await a_product(shop, stock=2)
    order = await shop.order.post("/v1/orders", an_order(user, product, payment="later"))
    assert (await shop.product.get(f"/v1/products/{product}"))["stock"] == 1
    taken = await shop.product.call("POST", f"/v1/products/{product}/stock", {"delta": -2})
    assert taken.problem == "out-of-stock"
    await shop.order.post(f"/v1/orders/{order['order_id']}/cancel", None)
    assert (await shop.product.get(f"/v1/products/{product}"))["stock"] == 2


async def test_coupons_are_given_read_and_listed_by_user_and_status(shop: Shop) -> None:
    user, coupon_id = await a_user(shop), new_id("coupon")
    new = {"coupon_id": coupon_id, "user_id": user, "kind": "fixed", "value": 50, "min_subtotal": 100}
    given = await shop.coupon.call("POST", "/v1/coupons", new)
    assert given.status == 201
    assert given.body.items() >= {**new, "status": "AVAILABLE", "currency": "KRW"}.items()
    assert "order_id" not in given.body
    assert await shop.coupon.get(f"/v1/coupons/{coupon_id}") == given.body
    other = await a_coupon(shop, user)
    order = await shop.order.post("/v1/orders", an_order(user, await a_product(shop), coupon_id=coupon_id))
    used = await shop.coupon.get("/v1/coupons", user_id=user, status="REDEEMED")
    assert [(coupon["coupon_id"], coupon["order_id"]) for coupon in used["items"]] == [(coupon_id, order["order_id"])]
    free = await shop.coupon.get("/v1/coupons", user_id=user, status="AVAILABLE")
    assert [coupon["coupon_id"] for coupon in free["items"]] == [other]
    again = await shop.coupon.call("POST", "/v1/coupons", new)
    assert (again.status, again.problem) == (409, "coupon-exists")


async def test_accounts_are_charged_and_keep_a_ledger_that_names_its_orders(shop: Shop) -> None:
    user = new_id("user")
    charge = await shop.balance.call("POST", f"/v1/accounts/{user}/charges", {"amount": 500})
    assert charge.status == 201
    assert (charge.body["kind"], charge.body["amount"], charge.body["balance_after"]) == ("charge", 500, 500)
    account = await shop.balance.get(f"/v1/accounts/{user}")
    assert account == {"user_id": user, "balance": 500, "currency": "KRW"}
    order = await shop.order.post("/v1/orders", an_order(user, await a_product(shop)))
    entries = await shop.balance.all_items(f"/v1/accounts/{user}/entries", limit=1)
    assert [(entry["kind"], entry["amount"], entry.get("order_id")) for entry in entries] == [
        ("debit", -100, order["order_id"]),
        ("charge", 500, None),
    ]


async def test_a_charge_with_a_key_happens_once(shop: Shop) -> None:
    path, headers = f"/v1/accounts/{new_id('user')}/charges", {"Idempotency-Key": new_id("key")}
    first = await shop.balance.call("POST", path, {"amount": 5}, headers=headers)
    second = await shop.balance.call("POST", path, {"amount": 5}, headers=headers)
    assert (first.status, first.body) == (second.status, second.body)
    other = await shop.balance.call("POST", path, {"amount": 6}, headers=headers)
    assert (other.status, other.problem) == (422, "idempotency-key-reused")
    assert (await shop.balance.get(path.removesuffix("/charges")))["balance"] == 5


@pytest.mark.parametrize(
    ("service", "method", "path", "body", "problem"),
    [
        ("product", "GET", "/v1/products/{id}", None, "product-not-found"),
        ("product", "PATCH", "/v1/products/{id}", {"price": 1}, "product-not-found"),
        ("product", "POST", "/v1/products/{id}/stock", {"delta": 1}, "product-not-found"),
        ("coupon", "GET", "/v1/coupons/{id}", None, "coupon-not-found"),
        ("balance", "GET", "/v1/accounts/{id}", None, "account-not-found"),
        ("balance", "GET", "/v1/accounts/{id}/entries", None, "account-not-found"),
    ],
)
async def test_unknown_id_is_404(shop: Shop, service: str, method: str, path: str, body: Any, problem: str) -> None:
    answer = await getattr(shop, service).call(method, path.format(id=new_id("no")), body)
    assert (answer.status, answer.problem) == (404, problem)
