"""Each service owns one schema, and the database refuses it everything else."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.infrastructure.databases import Database
from tests.infrastructure.services import SCHEMAS, migrate_service

RELAY_MAY = {("orders.outbox", "SELECT"), ("orders.outbox_partitions", "SELECT")}
STATEMENTS = {
    "SELECT": "SELECT FROM {table} LIMIT 1",
    "INSERT": "INSERT INTO {table} DEFAULT VALUES",
    "DELETE": "DELETE FROM {table}",
    "TRUNCATE": "TRUNCATE {table}",
    "DROP": "DROP TABLE {table}",
}


@pytest.fixture(scope="module")
def migrated(database: Database) -> Database:
    """A database with every service's tables, each made by the service's own role."""
    for service in SCHEMAS:
        migrate_service(service, database)
    return database


@pytest.fixture
def root(migrated: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(migrated.url, autocommit=True) as connection:
        yield connection


def tables(root: psycopg.Connection, schema: str) -> list[str]:
    rows = root.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (schema,)).fetchall()
    assert rows
    return [f"{schema}.{name}" for (name,) in rows]


@pytest.mark.parametrize("service", SCHEMAS)
def test_a_service_owns_all_of_its_schema(root: psycopg.Connection, service: str) -> None:
    owners = root.execute(
        """
        SELECT DISTINCT pg_get_userbyid(owner) FROM (
            SELECT nspowner AS owner FROM pg_namespace WHERE nspname = %(schema)s
            UNION ALL SELECT relowner FROM pg_class WHERE relnamespace = to_regnamespace(%(schema)s)
            UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = to_regnamespace(%(schema)s)
        ) AS owned
        """,
        {"schema": SCHEMAS[service]},
    ).fetchall()
    assert owners == [(f"{service}_service",)]


@pytest.mark.parametrize("service", SCHEMAS)
def test_a_service_is_refused_every_other_schema(migrated: Database, root: psycopg.Connection, service: str) -> None:
    foreign = [table for other, schema in SCHEMAS.items() if other != service for table in tables(root, schema)]
    with psycopg.connect(migrated.as_role(f"{service}_service"), autocommit=True) as connection:
        for table in foreign:
            for command, statement in STATEMENTS.items():
                if service == "relay" and (table, command) in RELAY_MAY:
                    continue
                query = sql.SQL(statement).format(table=sql.Identifier(*table.split(".")))
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(query)


@pytest.mark.parametrize("service", SCHEMAS)
def test_a_service_has_no_right_to_another_s_tables_columns_or_functions(
    root: psycopg.Connection, service: str
) -> None:
    role = f"{service}_service"
    others = [schema for other, schema in SCHEMAS.items() if other != service]
    granted = root.execute(
        """
        SELECT table_schema || '.' || table_name, column_name, privilege_type FROM information_schema.column_privileges
        WHERE grantee IN (%(role)s, 'PUBLIC') AND table_schema = ANY (%(others)s)
        UNION ALL
        SELECT table_schema || '.' || table_name, '*', privilege_type FROM information_schema.table_privileges
        WHERE grantee IN (%(role)s, 'PUBLIC') AND table_schema = ANY (%(others)s)
          AND privilege_type IN ('INSERT', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER')
        """,
        {"role": role, "others": others},
    ).fetchall()
    entered = [
        schema
        for schema in others
        if root.execute("SELECT has_schema_privilege(%s, %s, 'USAGE')", (role, schema)).fetchone() == (True,)
    ]
    if service != "relay":
        assert (granted, entered) == ([], [])
        return
    assert entered == ["orders"]
    assert {table for table, _, _ in granted} == {"orders.outbox", "orders.outbox_partitions"}
    changed = {(table, column) for table, column, privilege in granted if privilege == "UPDATE"}
    assert changed == {("orders.outbox", column) for column in ("status", "sent_at", "parked_at", "parked_reason")}
    assert {privilege for _, _, privilege in granted} == {"SELECT", "UPDATE"}


def test_the_relay_may_mark_an_event_and_not_change_what_it_tells(migrated: Database) -> None:
    with psycopg.connect(migrated.as_role("relay_service"), autocommit=True) as connection:
        connection.execute("UPDATE orders.outbox SET status = 'SENT', sent_at = now() WHERE false")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE orders.outbox SET payload = ''")


@pytest.mark.parametrize("service", SCHEMAS)
def test_a_service_can_not_become_another_or_make_a_schema(migrated: Database, service: str) -> None:
    with psycopg.connect(migrated.as_role(f"{service}_service"), autocommit=True) as connection:
        for other in SCHEMAS:
            if other != service:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"{other}_service")))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE SCHEMA mine")


def test_of_all_functions_only_the_relay_may_call_another_s_and_only_for_the_outbox(root: psycopg.Connection) -> None:
    callable_by_others = root.execute(
        """
        SELECT DISTINCT role.rolname, function.pronamespace::regnamespace || '.' || function.proname
        FROM pg_proc AS function, pg_roles AS role
        WHERE function.pronamespace::regnamespace::text = ANY (%(schemas)s) AND role.rolname = ANY (%(roles)s)
          AND function.proowner <> role.oid AND has_schema_privilege(role.oid, function.pronamespace, 'USAGE')
          AND has_function_privilege(role.oid, function.oid, 'EXECUTE')
        """,
        {"schemas": list(SCHEMAS.values()), "roles": [f"{service}_service" for service in SCHEMAS]},
    ).fetchall()
    outbox = {"redact_event", "redacted", "rotate_outbox", "note_published", "drop_published"}
    harmless = {"first_id_after"}  # computes an id from a moment, for whoever may look into the schema
    assert set(callable_by_others) == {("relay_service", f"orders.{function}") for function in outbox | harmless}
