"""Every existing id can be used at every path that takes an id."""

import re

import asyncpg
import pytest

from tests.contract.checking import Document
from tests.infrastructure.shopping import an_order
from tests.infrastructure.stack import SERVICES, Shop, Stack
from tests.integration.ids import AWKWARD, UNADDRESSABLE, at

NO_SUCH_PATH = "There is nothing at this path."


@pytest.mark.parametrize("service", SERVICES)
async def test_every_path_with_an_id_takes_every_id(shop: Shop, documents: dict[str, Document], service: str) -> None:
    calls = [
        (method.upper(), re.split(r"/?\{\w+\}", path))
        for path, methods in documents[service]["paths"].items()
        for method in methods
        if "{" in path
    ]
    assert calls
    for method, (before, after) in calls:
        for text in (*AWKWARD, *UNADDRESSABLE):
            answer = await getattr(shop, service).call(method, at(before, text, after), None if method == "GET" else {})
            assert answer.status in (404, 422), (method, before, text)
            assert answer.body["detail"] != NO_SUCH_PATH, (method, before, text)


async def test_order_may_name_a_product_user_or_coupon_with_an_old_id(stack: Stack, shop: Shop) -> None:
    """Insert a product, coupon and account with an old id: an order can't create these ids."""
    old = "an/../old\\one"
    db = await asyncpg.connect(stack.database.url)
    await db.execute("INSERT INTO products.products VALUES ($1, 'Old', 500, 5, 5)", old)
    await db.execute("INSERT INTO coupons.coupons (coupon_id, user_id, kind, value) VALUES ($1, $1, 'fixed', 5)", old)
    await db.execute("INSERT INTO balances.accounts VALUES ($1, 0, 0, 0)", old)
    await db.close()
    await shop.balance.call("POST", at("/v1/accounts", old, "/charges"), {"amount": 1000})
    order = await shop.order.post("/v1/orders", an_order(old, old, coupon_id=old))
    assert (order["status"], order["total_amount"], order["user_id"]) == ("PAID", 495, old)
    assert await shop.order.all_items("/v1/orders", user_id=old) == [order]


async def test_the_document_says_which_ids_are_uuids(documents: dict[str, Document]) -> None:
    formats = {
        parameter["name"]: parameter["schema"].get("format")
        for document in documents.values()
        for operations in document["paths"].values()
        for operation in operations.values()
        for parameter in operation["parameters"]
        if parameter["in"] == "path"
    }
    texts = dict.fromkeys(("product_id", "coupon_id", "user_id", "type"))
    assert formats == {**texts, "order_id": "uuid"}
