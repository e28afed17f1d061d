"""What is not applied in one statement is left as it was, and goes the general way; and how such a one is planned."""

import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import import_module
from uuid import UUID

import pytest

from services.product import store as product_store
from services.product.domain import HoldStock, OrderId, ProductId
from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.integration.at_once.places import Place, hold, open_place

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_order_that_looks_old_goes_the_general_way(product: Place) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "old", "Kettle", 100, 10)
    old = HoldStock(OrderId(UUID("00000000-0000-7000-8000-000000000001")), 0, ((ProductId("old"), 1),))
    async with product.session.statement() as db:
        assert await product.batch.fast_path(db, [old]) == {}
    (told,) = await product.at_once.run([old])
    assert told is not None
    assert told.applied


async def test_an_order_that_is_past_is_fenced_however_young_it_is(product: Place) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "past", "Kettle", 100, 10)
        before = await db.fetchval("SELECT pruned_before FROM products.horizon")
        await db.execute("UPDATE products.horizon SET pruned_before = $1", UUID(int=2**128 - 1))
    try:
        (told,) = await product.at_once.run([hold("past", 1)])
    finally:
        async with product.session.transaction() as db:
            await db.execute("UPDATE products.horizon SET pruned_before = $1", before)
    assert told is not None
    assert told.body["type"] == "/problems/fenced"


async def test_what_is_not_applied_leaves_its_gate_open_and_no_other_trace(product: Place) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "few", "Kettle", 100, 1)
        await product_store.create_product(db, "plenty", "Kettle", 100, 9)
    short = HoldStock(OrderId(uuid7()), 0, ((ProductId("plenty"), 1), (ProductId("few"), 2)))
    fine = hold("plenty", 8)
    async with product.session.statement() as db:
        assert set(await product.batch.fast_path(db, [short, fine])) == {fine.order_id}
    async with product.session.transaction() as db:
        told = await product_store.GATES.read_gate_outcomes(db, short.order_id)
        assert [(row["closed"], row["type"]) for row in told] == [(False, None)]
        assert await product_store.read_holds(db, [short.order_id]) == {}
        assert await db.fetchval("SELECT stock FROM products.products WHERE product_id = 'plenty'") == 1


@pytest.mark.parametrize(
    ("name", "query", "index"),
    [
        ("product", "hold_at_once", "products_pkey"),
        ("coupon", "use_at_once", "coupons_by_user"),
        ("balance", "debit_at_once", "accounts_pkey"),
    ],
)
async def test_a_plan_made_while_nothing_is_there_finds_by_key_what_comes_to_be_there(
    create_database: Callable[..., Database], name: str, query: str, index: str
) -> None:
    async with AsyncExitStack() as stack:
        place = await open_place(stack, name, create_database())
        sql = import_module(f"services.{name}.store").SQL[query]
        async with place.session.statement() as db:
            await db.execute(f"PREPARE at_once AS {sql}")
            arguments = ", ".join(["'{}'"] * len(set(re.findall(r"\$\d+", sql))))
            plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN EXECUTE at_once ({arguments})"))
    assert re.search(rf"Index Scan using {index} on \w+ \w+ .*\n +Index Cond: \(.*_id = t_", plan), plan
    assert "Seq Scan" not in plan
    assert "Bitmap" not in plan
