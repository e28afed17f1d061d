"""What an operator can mend in the database is answered 503, in calls and commands, and is over once it is mended."""

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


class Trouble(NamedTuple):
    """A trouble of the database, as SQL, and what mends it. `{database}` is its name."""

    name: str
    cause: str
    mend: str


TROUBLES = [
    Trouble(
        "a grant is missing",
        "REVOKE ALL ON ALL TABLES IN SCHEMA balances FROM balance_service",
        "GRANT ALL ON ALL TABLES IN SCHEMA balances TO balance_service",
    ),
    Trouble(
        "the schema is not to be used",
        "REVOKE ALL ON SCHEMA balances FROM balance_service",
        "GRANT ALL ON SCHEMA balances TO balance_service",
    ),
    Trouble(
        "a column is missing",
        "ALTER TABLE balances.accounts RENAME COLUMN balance TO other",
        "ALTER TABLE balances.accounts RENAME COLUMN other TO balance",
    ),
    Trouble(
        "a table is missing",
        "ALTER TABLE balances.accounts RENAME TO other",
        "ALTER TABLE balances.other RENAME TO accounts",
    ),
    Trouble(
        "no connections are allowed",
        "ALTER DATABASE {database} ALLOW_CONNECTIONS false",
        "ALTER DATABASE {database} ALLOW_CONNECTIONS true",
    ),
    Trouble(
        "the role has no connection left",
        "ALTER ROLE balance_service CONNECTION LIMIT 0",
        "ALTER ROLE balance_service CONNECTION LIMIT -1",
    ),
    Trouble("the role may not log in", "ALTER ROLE balance_service NOLOGIN", "ALTER ROLE balance_service LOGIN"),
]


@contextmanager
def in_trouble(database: Database, trouble: Trouble) -> Iterator[None]:
    """Have the database in that trouble. Open connections are ended, as nobody may log in is only asked of new ones."""
    name = urlsplit(database.url).path[1:]
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    elsewhere = psycopg.conninfo.make_conninfo(database.url, dbname="postgres")
    with (
        psycopg.connect(database.url, autocommit=True) as operator,
        psycopg.connect(elsewhere, autocommit=True) as server,
    ):
        where = server if "DATABASE" in trouble.cause else operator
        where.execute(sql.SQL(trouble.cause).format(database=sql.Identifier(name)))
        operator.execute(kill, (name,))
        try:
            yield
        finally:
            where.execute(sql.SQL(trouble.mend).format(database=sql.Identifier(name)))


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
async def test_what_an_operator_can_mend_is_503_until_it_is_mended(
    balance: Client, database: Database, trouble: Trouble
) -> None:
    user = f"user-{uuid7()}"
    charge, charges = {"amount": 5}, f"/v1/accounts/{user}/charges"
    debit = {"type": "debit", "order_id": str(uuid7()), "attempt": 1, "user_id": user, "amount": 1}

    async def charged() -> bool:
        return (await balance.call("POST", charges, charge)).status == 201

    with in_trouble(database, trouble):
        assert (await balance.call("POST", charges, charge)).problem == "unavailable"
        assert (await balance.call("POST", "/internal/v1/commands", {"commands": [debit]})).problem == "unavailable"
        assert (await balance.call("GET", "/livez")).status == 200
    await eventually(charged, MEND_SECONDS, "a charge after the trouble")
    (outcome,) = await balance.command(debit)
    assert outcome["outcome"] == "applied"
