"""Books past 64 bits: the audit finds them balanced, and still finds a difference of 1."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from services.order.audit.passes import Auditor
from services.order.audit.rules import Kind
from services.order.audit.schedule import AuditSchedule, publish
from shared.ids import uuid7
from shared.postgres.connections import Pool
from tests.infrastructure.books import violations
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order
from tests.infrastructure.waiting import eventually
from tests.integration.order_admin.operators import command

pytestmark = pytest.mark.asyncio(loop_scope="module")
MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Rich:
    """Create users and products with the largest possible amount; each product also has the largest price."""

    users: list[str]
    products: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rich(checkout: Checkout) -> Rich:
    users = [await a_user(checkout.shop, MAX) for _ in range(3)]
    return Rich(users, [await a_product(checkout.shop, price=MAX, stock=MAX) for _ in range(3)])


@asynccontextmanager
async def altered(checkout: Checkout, change: str, back: str, *arguments: Any) -> AsyncIterator[None]:
    """Change rows directly while the body runs; the ledger's trigger does not fire."""
    async with checkout.db.acquire() as db:
        await db.execute("SET session_replication_role = replica")
        await db.execute(change, *arguments)
        try:
            yield
        finally:
            await db.execute(back, *arguments)
            await db.execute("RESET session_replication_role")


async def test_totals_are_exact_everywhere_and_the_books_balance(
    checkout: Checkout, auditor: Auditor, rich: Rich
) -> None:
    everything = len(rich.users) * MAX
    balance = await checkout.shop.balance.get("/internal/v1/books")
    assert balance["totals"] == {
        "accounts": str(everything),
        "funding": str(-everything),
        "sales": 0,
        "balances": str(everything),
    }
    product = await checkout.shop.product.get("/internal/v1/books")
    assert product["totals"] == {"put_in": str(everything), "stock": str(everything), "held": 0}
    report = await auditor.run()
    assert report.findings == []
    assert report.totals["balance"]["funding"] == -everything
    assert report.totals["product"]["stock"] == everything
    audit_result = await command(checkout, "audit", "--json")
    assert (audit_result.status, audit_result.json["clean"]) == (0, True)
    assert audit_result.json["totals"]["balance"] == balance["totals"]
    assert str(everything) in (await command(checkout, "audit")).out
    assert (await checkout.admin.post("/admin/v1/audit", None))["totals"]["product"] == product["totals"]
    assert await violations(checkout.database.url) == []


# By name: the participant, the change and its reversal, and the finding's content.
CHANGES: dict[str, tuple[str, str, str, dict[str, int | str]]] = {
    "a unit is missing": (
        "product",
        "UPDATE products.products SET stock = stock - 1 WHERE product_id = $1",
        "UPDATE products.products SET stock = stock + 1 WHERE product_id = $1",
        {"put_in": MAX, "stock": MAX - 1, "held": 0},
    ),
    "a unit too many is held": (
        "product",
        "INSERT INTO products.holds (order_id, product_id, quantity, unit_price) VALUES (gen_random_uuid(), $1, 1, 0)",
        "DELETE FROM products.holds WHERE product_id = $1",
        {"put_in": MAX, "stock": MAX, "held": 1},
    ),
    "more is held than 64 bits take": (
        "product",
        f"""INSERT INTO products.holds (order_id, product_id, quantity, unit_price)
            SELECT gen_random_uuid(), $1, {MAX}, 0 FROM generate_series(1, 3)""",
        "DELETE FROM products.holds WHERE product_id = $1",
        {"put_in": MAX, "stock": MAX, "held": str(3 * MAX)},
    ),
    "money is missing": (
        "balance",
        "UPDATE balances.accounts SET balance = balance - 1 WHERE user_id = $1",
        "UPDATE balances.accounts SET balance = balance + 1 WHERE user_id = $1",
        {"balance": MAX - 1, "entries_total": MAX},
    ),
    "the ledger has 1 too many": (
        "balance",
        """INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, balance_after)
           VALUES ($1, 2, gen_random_uuid(), 'charge', 1, 'funding', 1)""",
        "DELETE FROM balances.entries WHERE user_id = $1 AND number = 2",
        {"balance": MAX, "entries_total": str(MAX + 1)},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_difference_of_1_is_found_at_the_bound(
    checkout: Checkout, auditor: Auditor, rich: Rich, name: str
) -> None:
    participant, change, back, expected = CHANGES[name]
    one = {"product": rich.products, "balance": rich.users}[participant][0]
    async with altered(checkout, change, back, one):
        books = [finding for finding in (await auditor.run()).findings if finding.kind is Kind.BOOKS]
        audit_result = await command(checkout, "audit", "--json")
    assert {finding.participant for finding in books} == {participant}
    assert books[0].found[0].items() >= expected.items()
    assert (audit_result.status, audit_result.json["clean"]) == (4, False)
    assert (await auditor.run()).clean


DEBITS = f"""
    INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, order_id, attempt,
                                  balance_after)
    SELECT $1, n, gen_random_uuid(), 'debit', -{MAX}, 'sales', $2::uuid, n, 0 FROM generate_series(2, 4) AS n
"""
NO_DEBITS = "DELETE FROM balances.entries WHERE user_id = $1 AND order_id = $2::uuid"


async def test_orphan_beyond_64_bits_has_its_exact_worth(checkout: Checkout, auditor: Auditor, rich: Rich) -> None:
    order_id, user = uuid4(), rich.users[0]
    async with altered(checkout, DEBITS, NO_DEBITS, user, order_id):
        holds = await checkout.shop.balance.holds(str(order_id))
        report = await auditor.run()
        audit_result = await command(checkout, "audit", "--json")
    assert holds == {str(order_id): {user: str(3 * MAX)}}
    (orphan,) = (finding for finding in report.findings if finding.kind is Kind.ORPHAN)
    assert (orphan.order_id, orphan.found, orphan.worth) == (order_id, {user: 3 * MAX}, 3 * MAX)
    assert str(3 * MAX) in {finding["worth"] for finding in audit_result.json["findings"]}
    publish(report)
    assert metric("audit_orphans_worth", participant="balance") == float(3 * MAX)
    publish(await auditor.run())


def metric(name: str, **labels: str) -> float:
    """Return a gauge of this process."""
    found = REGISTRY.get_sample_value(name, labels)
    assert found is not None
    return found


async def test_value_at_risk_beyond_64_bits_is_reported_by_command_and_metric(
    checkout: Checkout, pool: Pool, auditor: Auditor, rich: Rich
) -> None:
    later = [
        await checkout.shop.order.post("/v1/orders", an_order(user, product, payment="later"))
        for user, product in zip(rich.users, rich.products, strict=True)
    ]
    process = uuid7()
    await checkout.db.execute("INSERT INTO orders.processes VALUES ($1, now() + interval '1 hour')", process)
    for order in later:
        await under_way(checkout.db, UUID(order["order_id"]), process)
    await checkout.db.execute("DELETE FROM orders.duties")
    schedule = AuditSchedule(uuid7(), pool, auditor, interval_seconds=0.1)
    auditing = asyncio.create_task(schedule.run())
    try:

        async def reported() -> bool:
            if auditing.done():
                auditing.result()
            return schedule.last is not None and metric("value_at_risk", what="amount") == float(3 * MAX)

        await eventually(reported, 10, "an audit of payments under way")
        assert (await auditor.value_at_risk())["amount"] == 3 * MAX
        shown = await command(checkout, "audit", "--json")
        assert (shown.status, shown.json["value_at_risk"]["amount"]) == (0, str(3 * MAX))
        assert (shown.json["under_way"], shown.json["value_at_risk"]["units"]) == (3, 3)
    finally:
        auditing.cancel()
        await checkout.db.execute("DELETE FROM orders.duties")
        await checkout.db.execute("DELETE FROM orders.processes WHERE process_id = $1", process)
    await checkout.until_idle()
    for order in later:
        path = f"/v1/orders/{order['order_id']}"
        assert (await checkout.shop.order.get(path))["status"] == "PAID"
        assert (await checkout.shop.order.post(f"{path}/cancel", None))["status"] == "REFUNDED"
    assert (await auditor.run()).clean


async def under_way(db: asyncpg.Pool, order_id: UUID, owner: UUID) -> None:
    """Insert a payment of the order that another process has begun."""
    await db.execute("UPDATE orders.orders SET status = 'PAYING', payment_attempt = 1 WHERE order_id = $1", order_id)
    await db.execute(
        """INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, attempt, owner)
           VALUES ($1, $2, 'pay', 1, 'RUNNING', 1, $3)""",
        *(uuid7(), order_id, owner),
    )


async def test_order_at_the_bound_is_undone_despite_later_charges(
    checkout: Checkout, auditor: Auditor, rich: Rich
) -> None:
    user, product = rich.users[0], rich.products[0]
    account, shelf = f"/v1/accounts/{user}", f"/v1/products/{product}"
    order = await checkout.shop.order.post("/v1/orders", an_order(user, product))
    assert (order["status"], order["total_amount"]) == ("PAID", MAX)
    charge = await checkout.shop.balance.call("POST", f"{account}/charges", {"amount": 1})
    assert (charge.status, charge.problem) == (400, "balance-too-large")
    delivery = await checkout.shop.product.call("POST", f"{shelf}/stock", {"delta": 1})
    assert (delivery.status, delivery.problem) == (400, "stock-too-large")
    cancelled = await checkout.shop.order.post(f"/v1/orders/{order['order_id']}/cancel", None)
    assert cancelled["status"] == "REFUNDED"
    assert (await checkout.shop.balance.get(account))["balance"] == MAX
    assert (await checkout.shop.product.get(shelf))["stock"] == MAX
    assert (await auditor.run()).clean
    assert await violations(checkout.database.url) == []


@pytest.mark.parametrize(("beyond", "status"), [(0, 201), (1, 400)])
async def test_a_subtotal_may_be_as_large_as_a_balance_and_no_larger(
    checkout: Checkout, rich: Rich, beyond: int, status: int
) -> None:
    thousands, rest = divmod(MAX, 1000)
    many = await a_product(checkout.shop, price=thousands, stock=1000)
    one = await a_product(checkout.shop, price=rest + beyond, stock=1)
    body = an_order(rich.users[0], many, one)
    body["lines"][0]["quantity"] = 1000
    answer = await checkout.shop.order.call("POST", "/v1/orders", body)
    order = await checkout.shop.order.get(f"/v1/orders/{answer.body['order_id']}")
    assert (answer.status, order["subtotal_amount"]) == (status, None if beyond else MAX)
    if beyond:
        assert (answer.problem, order["status"]) == ("amount-too-large", "REJECTED")
    else:
        await checkout.shop.order.post(f"/v1/orders/{order['order_id']}/cancel", None)
    assert [(await checkout.shop.product.get(f"/v1/products/{id_}"))["stock"] for id_ in (many, one)] == [1000, 1]


@pytest.mark.parametrize("percent", [1, 33, 99, 100])
async def test_percentage_of_largest_subtotal_is_floored_exactly(checkout: Checkout, rich: Rich, percent: int) -> None:
    user = rich.users[0]
    for undone in ([], ["release_coupon"]):  # alone it is one statement, with its undo it is decided in Python
        order = str(uuid7())
        coupon = await a_coupon(checkout.shop, user, value=percent)
        reserve = {"type": "reserve_coupon", "order_id": order, "coupon_id": coupon, "user_id": user}
        undos = [{"type": type_, "order_id": order} for type_ in undone]
        outcomes = await checkout.shop.coupon.command({**reserve, "subtotal_amount": MAX}, *undos)
        assert outcomes[0]["result"] == {"discount_amount": MAX * percent // 100}
        await checkout.shop.coupon.command({"type": "release_coupon", "order_id": order})
