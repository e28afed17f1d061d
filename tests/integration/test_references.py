"""Products and accounts that holds and entries name can't be removed; the service's own checks would find it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.infrastructure.databases import Database
from tests.infrastructure.services import migrate_service


@dataclass(frozen=True, slots=True)
class Reference:
    """Rows that name other rows, a statement that writes one that may be named, and one with a missing name."""

    service: str
    named: str
    column: str
    present: str
    dangling: str


REFERENCES = (
    Reference(
        "product",
        "products.products",
        "product_id",
        "INSERT INTO products.products (product_id, name, price, stock, put_in) VALUES ('here', 'Thing', 1, 1, 1)",
        "INSERT INTO products.holds (order_id, product_id, quantity, unit_price)"
        " VALUES (gen_random_uuid(), 'gone', 1, 1)",
    ),
    Reference(
        "balance",
        "balances.accounts",
        "user_id",
        "INSERT INTO balances.accounts (user_id, balance, charged, entry_count) VALUES ('here', 0, 0, 0)",
        "INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, balance_after)"
        " VALUES ('gone', 1, gen_random_uuid(), 'charge', 5, 'funding', 5)",
    ),
)


@pytest_asyncio.fixture(params=REFERENCES, ids=lambda reference: reference.service)
async def reference(
    request: pytest.FixtureRequest, database: Database
) -> AsyncIterator[tuple[Reference, asyncpg.Connection]]:
    """Yield each case, with a superuser's connection whose transaction is rolled back."""
    migrate_service(request.param.service, database)
    connection = await asyncpg.connect(database.url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield request.param, connection
    finally:
        await transaction.rollback()
        await connection.close()


@pytest.mark.parametrize(
    "statement", ["DELETE FROM {named}", "TRUNCATE {named}", "UPDATE {named} SET {column} = 'other'"], ids=str
)
async def test_referenced_rows_cannot_be_removed_or_renamed_by_a_superuser(
    reference: tuple[Reference, asyncpg.Connection], statement: str
) -> None:
    of, db = reference
    await db.execute(of.present)
    with pytest.raises(asyncpg.RestrictViolationError, match=r"never removed|kept where their slot is"):
        await db.execute(statement.format(named=of.named, column=of.column))


async def test_books_that_name_missing_rows_do_not_add_up(
    reference: tuple[Reference, asyncpg.Connection],
) -> None:
    of, db = reference
    check_books: Any = import_module(f"services.{of.service}.store").check_books
    assert not any(check["violations"] for check in (await check_books(db))["checks"])
    await db.execute(of.dangling)
    found = [example for check in (await check_books(db))["checks"] for example in check["examples"]]
    assert any(example.get(of.column) == "gone" for example in found)
