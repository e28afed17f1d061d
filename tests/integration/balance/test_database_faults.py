"""A database fault that an operator can repair gets 503, in calls and commands, and ends with the repair."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client
from tests.infrastructure.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEND_SECONDS = 10


class Fault(NamedTuple):
    """A fault of the database as SQL, and the SQL that repairs it. `{database}` is the database's name."""

    name: str
    cause: str
    mend: str


FAULTS = [
    Fault(
        "a grant is missing",
        "REVOKE ALL ON ALL TABLES IN SCHEMA balances FROM balance_service",
        "GRANT ALL ON ALL TABLES IN SCHEMA balances TO balance_service",
    ),
    Fault(
        "the schema is not to be used",
        "REVOKE ALL ON SCHEMA balances FROM balance_service",
        "GRANT ALL ON SCHEMA balances TO balance_service",
    ),
    Fault(
        "a column is missing",
        "ALTER TABLE balances.accounts RENAME COLUMN balance TO other",
        "ALTER TABLE balances.accounts RENAME COLUMN other TO balance",
    ),
    Fault(
        "a table is missing",
        "ALTER TABLE balances.accounts RENAME TO other",
        "ALTER TABLE balances.other RENAME TO accounts",
    ),
    Fault(
        "no connections are allowed",
        "ALTER DATABASE {database} ALLOW_CONNECTIONS false",
        "ALTER DATABASE {database} ALLOW_CONNECTIONS true",
    ),
    Fault(
        "the role has no connection left",
        "ALTER ROLE balance_service_a CONNECTION LIMIT 0",
        "ALTER ROLE balance_service_a CONNECTION LIMIT 50",
    ),
    Fault("the role may not log in", "ALTER ROLE balance_service_a NOLOGIN", "ALTER ROLE balance_service_a LOGIN"),
]


@contextmanager
def with_fault(database: Database, fault: Fault) -> Iterator[None]:
    """Apply a fault during the body, and end open connections: a refused login affects only new ones."""
    name = urlsplit(database.url).path[1:]
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    elsewhere = psycopg.conninfo.make_conninfo(database.url, dbname="postgres")
    with (
        psycopg.connect(database.url, autocommit=True) as operator,
        psycopg.connect(elsewhere, autocommit=True) as server,
    ):
        where = server if "DATABASE" in fault.cause else operator
        where.execute(sql.SQL(fault.cause).format(database=sql.Identifier(name)))
        operator.execute(kill, (name,))
        try:
            yield
        finally:
            where.execute(sql.SQL(fault.mend).format(database=sql.Identifier(name)))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_database_error_that_an_operator_can_repair_is_503_until_repaired(
    balance: Client, database: Database, fault: Fault
) -> None:
    user = f"user-{uuid7()}"
    charge, charges = {"amount": 5}, f"/v1/accounts/{user}/charges"
    debit = {"type": "debit", "order_id": str(uuid7()), "attempt": 1, "user_id": user, "amount": 1}

    async def charged() -> bool:
        return (await balance.call("POST", charges, charge)).status == 201

    with with_fault(database, fault):
        assert (await balance.call("POST", charges, charge)).problem == "unavailable"
        assert (await balance.call("POST", "/internal/v1/commands", {"commands": [debit]})).problem == "unavailable"
        assert (await balance.call("GET", "/livez")).status == 200
    await eventually(charged, MEND_SECONDS, "a charge after the fault")
    (outcome,) = await balance.command(debit)
    assert outcome["outcome"] == "applied"
