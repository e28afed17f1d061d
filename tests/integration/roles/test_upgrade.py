"""Schemas that the services' own roles own, as before there were owners and migrators, are taken over in place."""

import gzip
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg import sql

from deploy.consumer import store as consumer
from shared.postgres.migrations import migrate
from shared.postgres.query_check import QueryCheck, QueryRefused
from tests.infrastructure.databases import LOGINS, RUNTIME_ROLES, Database, create_roles, fresh_database
from tests.infrastructure.everything import migrate_everything
from tests.infrastructure.postgres import packaged_binaries, start_binaries, system_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SERVICES_FOLDER, queries_of
from tests.integration.roles.catalog import OWNER_OF, Right, allowed, held

# Made by pg_dump 15 from a database of the last release without owners and migrators.
BEFORE = Path(__file__).with_name("before_roles.sql.gz")
SERVERS = [path for path in (system_binaries(), packaged_binaries()) if path]
QUERIES = {role: consumer.SQL if "consumer" in role else queries_of(role.split("_")[0]) for role in RUNTIME_ROLES}
DISABLE = "ALTER TABLE balances.entries DISABLE TRIGGER USER"
CHARGE = """
WITH account AS (INSERT INTO balances.accounts (user_id, balance, charged, entry_count) VALUES (%(user)s, 5, 5, 1))
INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, balance_after)
VALUES (%(user)s, 1, gen_random_uuid(), 'charge', 5, 'funding', 5)
"""
# All that roles.sql may change; passwords are salted anew.
STATE = """
SELECT 'role', rolname, to_jsonb(r) - 'rolpassword' FROM pg_roles AS r
UNION ALL SELECT 'member', roleid::regrole::text, to_jsonb(m) FROM pg_auth_members AS m
UNION ALL SELECT 'setting', setrole::regrole::text, to_jsonb(s) FROM pg_db_role_setting AS s
UNION ALL SELECT 'default', defaclrole::regrole::text, to_jsonb(d) FROM pg_default_acl AS d
UNION ALL SELECT 'database', datname, to_jsonb(d) - 'datfrozenxid' FROM pg_database AS d
    WHERE datname = current_database()
UNION ALL SELECT 'schema', nspname, to_jsonb(n) FROM pg_namespace AS n WHERE nspname !~ '^pg_'
UNION ALL SELECT 'relation', oid::regclass::text, jsonb_build_array(relowner, relacl) FROM pg_class
UNION ALL SELECT 'function', oid::regprocedure::text, jsonb_build_array(proowner, proacl) FROM pg_proc
"""


@pytest.fixture(scope="module")
def servers(reaper: Reaper) -> Callable[[Path], str]:
    """Start the servers that the tests need, each once, and return their addresses by their binaries."""
    return cache(lambda binaries: start_binaries(binaries, reaper))


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Callable[[Path], str]) -> Iterator[str]:
    """Yield a server without any of our roles: the newest one, or a parameter."""
    url = servers(getattr(request, "param", SERVERS[-1]))
    yield url
    with psycopg.connect(url, autocommit=True) as root:
        roles = root.execute(
            "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> current_user"
        ).fetchall()
        for (role,) in roles:
            root.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


def load(database: Database) -> None:
    """Make the roles of before, and fill the database."""
    with psycopg.connect(database.url, autocommit=True) as root:
        for role in RUNTIME_ROLES:
            root.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'former'").format(sql.Identifier(role)))
    command = [str(packaged_binaries() / "psql"), database.url, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]
    subprocess.run(command, input=gzip.decompress(BEFORE.read_bytes()), stdout=subprocess.DEVNULL, check=True)


def former(database: Database, role: str) -> str:
    """Return the address with which a process of before is logged in."""
    return database.as_role(f"{role}_a").replace(f"{role}_a:secret", f"{role}:former")


def state(root: psycopg.Connection) -> set[str]:
    return {str(row) for row in root.execute(STATE)}


async def refused(database: Database, role: str) -> list[str]:
    """Return why a process of before could not execute its queries, besides tables that it does not know."""
    connection = await asyncpg.connect(former(database, role))
    found = []
    for name, query in QUERIES[role].items():
        try:
            await QueryCheck({name: query}).run(connection)
        except QueryRefused as error:
            if "does not exist" not in str(error):
                found.append(str(error))
    await connection.close()
    return found


@pytest.fixture
def database(server: str) -> Iterator[Database]:
    with fresh_database(server, roles=False) as database:
        load(database)
        yield database


@pytest.mark.parametrize("server", SERVERS, ids=lambda path: path.parent.name, indirect=True)
async def test_schemas_are_taken_over_while_processes_of_before_go_on(database: Database, server: str) -> None:
    with ExitStack() as connections:
        root = connections.enter_context(psycopg.connect(database.url, autocommit=True))
        old = connections.enter_context(psycopg.connect(former(database, "balance_service"), autocommit=True))
        old.execute(CHARGE, {"user": "before"})
        with old.transaction(force_rollback=True):
            old.execute(DISABLE)  # the fault

        with ThreadPoolExecutor(3) as operators:  # they wait for one another
            list(operators.map(create_roles, [database.url] * 3))
        old.execute(CHARGE, {"user": "between"})
        for refusal in (DISABLE, "DROP TABLE balances.entries", "UPDATE balances.entries SET amount = 1"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                old.execute(refusal)
        assert [await refused(database, role) for role in RUNTIME_ROLES] == [[]] * 6
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            migrate(former(database, "balance_service"), "balances", SERVICES_FOLDER / "balance" / "migrations")

        migrate_everything_in_a_thread(database)
        old.execute(CHARGE, {"user": "after"})
        assert [await refused(database, role) for role in RUNTIME_ROLES] == [[]] * 6
        assert root.execute("SELECT count(*) FROM balances.entries").fetchall() == [(3,)]
        owners = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = %s::regnamespace"
        for schema, owner in OWNER_OF.items():
            assert root.execute(owners, (schema,)).fetchall() == [(owner,)]
        upgraded = held(root)
        assert {right for right in upgraded - allowed(root) if right.role != "services_reader"} == set()
    with fresh_database(server) as fresh, psycopg.connect(fresh.url) as new:
        migrate_everything_in_a_thread(fresh)
        assert without_leftovers(upgraded) == held(new)


def without_leftovers(rights: set[Right]) -> set[Right]:
    """Return the rights on what exists in new databases too: the consumer's former migration tool left tables."""
    return {right for right in rights if not right.name.startswith(("platform._yoyo", "platform.yoyo"))}


def migrate_everything_in_a_thread(database: Database) -> None:
    with ThreadPoolExecutor(1) as thread:  # it runs an event loop of its own
        thread.submit(migrate_everything, database).result()


def test_second_run_changes_nothing_and_keeps_an_operators_limits(database: Database) -> None:
    create_roles(database.url)
    with psycopg.connect(database.url, autocommit=True) as root:
        root.execute("ALTER ROLE order_service_a CONNECTION LIMIT 7")
        root.execute("ALTER ROLE order_service_a SET statement_timeout = '5s'")
        root.execute("ALTER ROLE order_service NOLOGIN")  # the last step of the upgrade
        before = state(root)
        create_roles(database.url)
        assert state(root) == before


def test_table_of_another_owner_is_left_to_a_person(database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as root:
        root.execute("CREATE TABLE orders.strange (id int)")
        with pytest.raises(subprocess.CalledProcessError):
            create_roles(database.url)
        assert root.execute("SELECT to_regrole('order_owner')").fetchone() == (None,)


def test_busy_table_ends_the_run_instead_of_blocking_checkouts(database: Database) -> None:
    with psycopg.connect(former(database, "order_service")) as checkout:
        checkout.execute("SELECT FROM orders.orders")
        with pytest.raises(subprocess.CalledProcessError):
            create_roles(database.url)
    create_roles(database.url)


@pytest.fixture
def owned_by_an_administrator(server: str) -> Iterator[Sequence[Database]]:
    """Return the database of an administrator who is no superuser: as that one, and as the superuser."""
    with psycopg.connect(server, autocommit=True) as root:
        root.execute("CREATE ROLE administrator LOGIN CREATEROLE PASSWORD 'secret'")
    with fresh_database(server, roles=False) as database:
        with psycopg.connect(database.url, autocommit=True) as root:
            owned = sql.SQL("ALTER DATABASE {} OWNER TO administrator").format(sql.Identifier(root.info.dbname))
            root.execute(owned)
        yield Database(database.as_role("administrator")), database


def test_owner_of_the_database_needs_no_superuser(
    owned_by_an_administrator: Sequence[Database], capfd: pytest.CaptureFixture[str]
) -> None:
    administrator, database = owned_by_an_administrator
    for _ in range(2):
        create_roles(administrator.url)
    wanted = set(re.findall(r"A superuser must run: (.+)", capfd.readouterr().err))
    migrate_everything(administrator)
    with psycopg.connect(database.url, autocommit=True) as root:
        # What is left to a superuser is not asked for again once it is done.
        assert {statement.split()[0] for statement in wanted} == {"GRANT", "REVOKE"}
        for statement in wanted:
            root.execute(statement)
        create_roles(administrator.url)
        assert "WARNING" not in capfd.readouterr().err
        assert {right for right in held(root) - allowed(root) if right.role != "services_reader"} == set()
        logins = root.execute("SELECT rolname FROM pg_roles WHERE rolcanlogin").fetchall()
    assert {name for (name,) in logins} == {*LOGINS, "postgres", "administrator"}


def test_administrator_who_can_not_close_the_database_is_refused(server: str) -> None:
    with fresh_database(server, roles=False) as database, psycopg.connect(database.url, autocommit=True) as root:
        root.execute("CREATE ROLE administrator LOGIN CREATEROLE PASSWORD 'secret'")
        name = sql.Identifier(root.info.dbname)
        root.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO administrator").format(name))
        with pytest.raises(subprocess.CalledProcessError):
            create_roles(database.as_role("administrator"))
        assert root.execute("SELECT to_regrole('order_owner')").fetchone() == (None,)
