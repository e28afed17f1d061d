"""The promises to clients about products."""

from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY

from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client
from tests.integration import hostile
from tests.integration.ids import AWKWARD, UNADDRESSABLE, at

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/products"
VALID = {"name": "Kettle", "price": 30_000, "stock": 5}
INT64_MAX = 2**63 - 1


async def test_a_product_is_added_and_can_be_read(product: Client) -> None:
    added = await product.post(PATH, {**VALID, "product_id": "kettle"})
    assert added == {**VALID, "product_id": "kettle", "currency": "KRW"}
    assert await product.get(f"{PATH}/kettle") == added


async def test_a_product_without_an_id_gets_one(product: Client) -> None:
    first, second = await product.post(PATH, VALID), await product.post(PATH, VALID)
    assert first["product_id"] != second["product_id"]


async def test_an_id_can_be_used_once(product: Client) -> None:
    product_id = uuid4().hex
    await product.post(PATH, {**VALID, "product_id": product_id})
    answer = await product.call("POST", PATH, {**VALID, "product_id": product_id})
    assert (answer.status, answer.problem) == (409, "product-exists")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{PATH}/nowhere", None),
        ("PATCH", f"{PATH}/nowhere", {"price": 1}),
        ("POST", f"{PATH}/nowhere/stock", {"delta": 1}),
    ],
)
async def test_an_unknown_product_is_not_found(product: Client, method: str, path: str, body: Any) -> None:
    answer = await product.call(method, path, body)
    assert (answer.status, answer.problem) == (404, "product-not-found")


@pytest.mark.parametrize("change", [{"name": "Pot"}, {"price": 0}, {"name": "Pot", "price": 9}], ids=str)
async def test_a_name_and_a_price_can_be_changed(product: Client, change: dict[str, Any]) -> None:
    added = await product.post(PATH, VALID)
    answer = await product.call("PATCH", f"{PATH}/{added['product_id']}", change)
    assert (answer.status, answer.body) == (200, {**added, **change})


async def test_change_without_fields_is_refused(product: Client) -> None:
    added = await product.post(PATH, VALID)
    answer = await product.call("PATCH", f"{PATH}/{added['product_id']}", {})
    assert (answer.status, answer.problem) == (422, "validation-failed")


async def test_units_are_put_in_and_taken_out_but_never_more_than_there_are(product: Client) -> None:
    path = f"{PATH}/{(await product.post(PATH, VALID))['product_id']}"
    assert (await product.post(f"{path}/stock", {"delta": 3}))["stock"] == 8
    assert (await product.post(f"{path}/stock", {"delta": -8}))["stock"] == 0
    answer = await product.call("POST", f"{path}/stock", {"delta": -1})
    assert (answer.status, answer.problem) == (400, "out-of-stock")
    assert (await product.get(path))["stock"] == 0


async def test_stock_does_not_overflow_even_if_sold_units_are_returned(product: Client) -> None:
    product_id = (await product.post(PATH, {**VALID, "stock": INT64_MAX}))["product_id"]
    order = str(uuid4())
    lines = [{"product_id": product_id, "quantity": 1000}]
    await product.command({"type": "hold_stock", "order_id": order, "lines": lines})
    answer = await product.call("POST", f"{PATH}/{product_id}/stock", {"delta": 1})
    assert (answer.status, answer.problem) == (400, "stock-too-large")
    (restored,) = await product.command({"type": "restore_stock", "order_id": order})
    assert restored["outcome"] == "applied"
    assert (await product.get(f"{PATH}/{product_id}"))["stock"] == INT64_MAX


async def test_products_are_listed_by_id_page_by_page(product: Client) -> None:
    added = {(await product.post(PATH, VALID))["product_id"] for _ in range(5)}
    listed = [item["product_id"] for item in await product.all_items(PATH, limit=2)]
    assert added <= set(listed)
    assert len(set(listed)) == len(listed)


async def is_found(product: Client, product_id: str) -> None:
    """Call every route of a product's path."""
    found = await product.call("GET", at(PATH, product_id))
    assert (found.status, found.body["product_id"]) == (200, product_id)
    changed = await product.call("PATCH", at(PATH, product_id), {"price": 7})
    assert (changed.status, changed.body) == (200, {**found.body, "price": 7})
    moved = await product.call("POST", at(PATH, product_id, "/stock"), {"delta": 1})
    assert (moved.status, moved.body["stock"]) == (200, found.body["stock"] + 1)


async def test_product_is_found_by_any_valid_id(product: Client) -> None:
    for product_id in AWKWARD:
        assert (await product.post(PATH, {**VALID, "product_id": product_id}))["product_id"] == product_id
        await is_found(product, product_id)
    listed = [item["product_id"] for item in await product.all_items(PATH, limit=1)]
    assert set(AWKWARD) <= set(listed)
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("product_id", UNADDRESSABLE)
async def test_product_id_that_a_proxy_would_change_is_refused_unless_it_exists(
    product: Client, database: Database, product_id: str
) -> None:
    answer = await product.call("POST", PATH, {**VALID, "product_id": product_id})
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert [error["pointer"] for error in answer.body["errors"]] == ["/product_id"]
    assert (await product.call("GET", at(PATH, product_id))).problem == "product-not-found"
    db = await asyncpg.connect(database.url)
    await db.execute("INSERT INTO products.products VALUES ($1, 'Old', 5, 5, 5)", product_id)
    await db.close()
    await is_found(product, product_id)


@pytest.mark.parametrize(
    "attack",
    [
        *hostile.bodies(PATH, VALID, "price", "name"),
        *hostile.bodies(f"{PATH}/kettle/stock", {"delta": 1}, "delta"),
        *hostile.lists(PATH),
        *hostile.limits("/internal/v1/holds"),
        *hostile.paths(f"{PATH}/", "product-not-found"),
    ],
    ids=str,
)
async def test_hostile_input_is_the_client_s_fault(product: Client, attack: hostile.Attack) -> None:
    await hostile.withstand(product, attack)


async def test_metrics_have_no_method_or_path_of_a_clients_choice(product: Client) -> None:
    assert (await product.call("PURGE", "/nowhere")).status in (404, 405)
    labels = [sample.labels for metric in REGISTRY.collect() for sample in metric.samples]
    assert not [found for found in labels if found.get("method") == "PURGE" or found.get("route") == "/nowhere"]
