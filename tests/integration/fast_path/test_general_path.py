"""Commands that the one-statement path does not apply change nothing there and take the general path; and its plans."""

import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import import_module
from uuid import UUID

import pytest

from services.balance.domain import Debit, UserId
from services.balance.domain import OrderId as BalanceOrder
from services.product import store as product_store
from services.product.domain import HoldStock, OrderId, ProductId
from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.integration.fast_path.participants import ParticipantUnderTest, hold, open_participant

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_order_with_an_old_id_takes_the_general_path(product: ParticipantUnderTest) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "old", "Kettle", 100, 10)
    old = HoldStock(OrderId(UUID("00000000-0000-7000-8000-000000000001")), 0, ((ProductId("old"), 1),))
    async with product.session.statement() as db:
        assert await product.batch.fast_path(db, [old]) == {}
    (outcome,) = await product.executor.run([old])
    assert outcome is not None
    assert outcome.applied


async def test_order_before_the_horizon_is_fenced_despite_a_recent_id(product: ParticipantUnderTest) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "past", "Kettle", 100, 10)
        before = await db.fetchval("SELECT pruned_before FROM products.horizon")
        await db.execute("UPDATE products.horizon SET pruned_before = $1", UUID(int=2**128 - 1))
    try:
        (outcome,) = await product.executor.run([hold("past", 1)])
    finally:
        async with product.session.transaction() as db:
            await db.execute("UPDATE products.horizon SET pruned_before = $1", before)
    assert outcome is not None
    assert outcome.body["type"] == "/problems/fenced"


async def test_command_not_applied_by_the_fast_path_leaves_only_an_open_gate(product: ParticipantUnderTest) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "few", "Kettle", 100, 1)
        await product_store.create_product(db, "plenty", "Kettle", 100, 9)
    short = HoldStock(OrderId(uuid7()), 0, ((ProductId("plenty"), 1), (ProductId("few"), 2)))
    fine = hold("plenty", 8)
    async with product.session.statement() as db:
        assert set(await product.batch.fast_path(db, [short, fine])) == {fine.gate}
    async with product.session.transaction() as db:
        stored = await product_store.GATES.read_gate_outcomes(db, short.gate)
        assert [(row["closed"], row["type"]) for row in stored] == [(False, None)]
        assert await product_store.read_holds(db, [short.gate]) == {}
        assert await db.fetchval("SELECT stock FROM products.products WHERE product_id = 'plenty'") == 1


async def test_only_second_payments_and_debits_of_0_take_the_general_path(balance: ParticipantUnderTest) -> None:
    async with balance.session.transaction() as db:
        insert = "INSERT INTO balances.accounts (user_id, balance, charged, entry_count) VALUES ('ann', 9, 9, 1)"
        await db.execute(insert)
    first, second, nothing = (
        Debit(BalanceOrder(uuid7()), attempt, UserId("ann"), amount) for attempt, amount in ((1, 2), (2, 2), (1, 0))
    )
    async with balance.session.statement() as db:
        assert set(await balance.batch.fast_path(db, [first, second, nothing])) == {first.gate}
        gates = await db.fetch("SELECT order_id FROM balances.gates")
        assert [row["order_id"] for row in gates] == [first.gate]


@pytest.mark.parametrize(
    ("name", "query", "index"),
    [
        ("product", "hold_in_one_statement", "products_pkey"),
        ("coupon", "use_in_one_statement", "coupons_by_user"),
        ("balance", "debit_in_one_statement", "accounts_pkey"),
    ],
)
async def test_plan_made_on_empty_tables_uses_the_index(
    create_database: Callable[..., Database], name: str, query: str, index: str
) -> None:
    async with AsyncExitStack() as stack:
        participant = await open_participant(stack, name, create_database(migrated=True))
        sql = import_module(f"services.{name}.store").SQL[query]
        async with participant.session.statement() as db:
            await db.execute(f"PREPARE fast_path AS {sql}")
            arguments = ", ".join(["'{}'"] * len(set(re.findall(r"\$\d+", sql))))
            plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN EXECUTE fast_path ({arguments})"))
    assert re.search(rf"Index Scan using {index} on \w+ \w+ .*\n +Index Cond: \(.*_id = t_", plan), plan
    assert "Seq Scan" not in plan
    assert "Bitmap" not in plan
