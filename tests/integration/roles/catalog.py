"""Which rights the roles hold on the objects of a database, and which they may hold at most."""

from collections.abc import Iterator
from typing import NamedTuple

import psycopg

from tests.infrastructure.databases import RUNTIME_ROLES

SCHEMA_OF = dict(zip(RUNTIME_ROLES, ("orders", "products", "coupons", "balances", "relay", "platform"), strict=True))
RUNTIME_OF = {role + suffix: role for role in RUNTIME_ROLES for suffix in ("", "_a", "_b")}
PREFIX_OF = {role: role.rpartition("_")[0] for role in RUNTIME_ROLES}
OWNER_OF = {schema: f"{PREFIX_OF[role]}_owner" for role, schema in SCHEMA_OF.items()}
MIGRATORS = [f"{prefix}_migrator" for prefix in PREFIX_OF.values()]
ROLES = [*RUNTIME_OF, *MIGRATORS, "services_reader", "services_monitor", "public"]

APPEND_ONLY = {"balances.entries", "orders.outbox", "orders.operator_acts", "relay.operator_acts"}
RELAY_READS = {"orders.outbox", "orders.outbox_partitions", "orders.relay_shards"}
RELAY_CALLS = {"redacted", "redact_event", "rotate_outbox", "note_published", "drop_published"}
# Who may do what with a schema is the migration tool's and the owner's business.
TOOLS_OWN = ("_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock", "migrations")

HELD = """
WITH role AS (SELECT unnest(%(roles)s::text[]) AS role),
objects AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY (%(schemas)s) OR nspname = 'public'
), relations AS (
    SELECT c.oid, relkind, relispartition, format('%%s.%%s', nspname, relname) AS name
    FROM pg_class AS c JOIN objects ON objects.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
)
SELECT role, 'table', name, privilege FROM role, relations, unnest(%(privileges)s::text[]) AS privilege
WHERE relkind <> 'S' AND has_table_privilege(role, relations.oid, privilege)
UNION ALL
SELECT role, 'column', format('%%s.%%s', name, attname), privilege
FROM role, relations JOIN pg_attribute ON attrelid = relations.oid AND attnum > 0 AND NOT attisdropped,
    unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) AS privilege
WHERE relkind <> 'S' AND has_column_privilege(role, relations.oid, attnum, privilege)
    AND NOT has_table_privilege(role, relations.oid, privilege)
UNION ALL
SELECT role, 'sequence', name, privilege FROM role, relations, unnest('{USAGE,SELECT,UPDATE}'::text[]) AS privilege
WHERE relkind = 'S' AND has_sequence_privilege(role, relations.oid, privilege)
UNION ALL
SELECT role, 'function', format('%%s.%%s', nspname, proname), 'EXECUTE'
FROM role, pg_proc JOIN objects ON objects.oid = pronamespace WHERE has_function_privilege(role, pg_proc.oid, 'EXECUTE')
UNION ALL
SELECT role, 'schema', nspname, privilege FROM role, objects, unnest('{CREATE,USAGE}'::text[]) AS privilege
WHERE has_schema_privilege(role, objects.oid, privilege)
UNION ALL
SELECT role, 'database', 'this', privilege FROM role, unnest('{CONNECT,CREATE,TEMPORARY}'::text[]) AS privilege
WHERE has_database_privilege(role, current_database(), privilege)
"""


class Right(NamedTuple):
    """A privilege of a role on an object; a schema is part of the object's name."""

    role: str
    kind: str
    name: str
    privilege: str


def held(root: psycopg.Connection) -> set[Right]:
    """Return every right of every role, by itself, by membership or by PUBLIC."""
    privileges = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
    if root.info.server_version >= 170000:
        privileges.append("MAINTAIN")
    query = {"roles": ROLES, "schemas": list(OWNER_OF), "privileges": privileges}
    return {Right(*row) for row in root.execute(HELD, query)}


def names(root: psycopg.Connection) -> tuple[list[str], set[str]]:
    """Return the tables, without partitions and the migration tool's, and the functions of all services."""
    tables = root.execute(
        "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND NOT relispartition AND relnamespace::regnamespace::text = ANY (%s) AND relname <> ALL (%s) ORDER BY 1",
        (list(OWNER_OF), list(TOOLS_OWN)),
    )
    functions = root.execute(
        "SELECT pronamespace::regnamespace || '.' || proname FROM pg_proc"
        " WHERE pronamespace::regnamespace::text = ANY (%s) AND NOT prosecdef AND prorettype <> 'trigger'::regtype",
        (list(OWNER_OF),),
    )
    return [name for (name,) in tables], {name for (name,) in functions}


def allowed(root: psycopg.Connection) -> set[Right]:
    """Return the rights that the roles may hold at most."""
    return set(_allowed(*names(root)))


def _allowed(tables: list[str], functions: set[str]) -> Iterator[Right]:
    for role, runtime in RUNTIME_OF.items():
        schema = SCHEMA_OF[runtime]
        yield Right(role, "schema", schema, "USAGE")
        for name in (name for name in tables if name.startswith(f"{schema}.")):
            for privilege in ("SELECT", "INSERT") if name in APPEND_ONLY else ("SELECT", "INSERT", "UPDATE", "DELETE"):
                yield Right(role, "table", name, privilege)
        for name in (name for name in functions if name.startswith(f"{schema}.")):
            yield Right(role, "function", name, "EXECUTE")
        if runtime == "relay_service":
            yield Right(role, "schema", "orders", "USAGE")
            yield from (Right(role, "table", name, "SELECT") for name in RELAY_READS)
            yield from (Right(role, "function", f"orders.{name}", "EXECUTE") for name in RELAY_CALLS)
            for column in ("status", "sent_at", "parked_at", "parked_reason"):
                yield Right(role, "column", f"orders.outbox.{column}", "UPDATE")
    for schema in OWNER_OF:
        yield Right("services_reader", "schema", schema, "USAGE")
    yield from (Right(role, "database", "this", "CONNECT") for role in ROLES if role != "public")
