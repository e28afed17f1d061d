"""Checks that a service's queries can be executed: what they name is there, and the role may use it."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress

import asyncpg

from shared.postgres.connections import Connection, in_transaction
from shared.refusals import Unavailable

# How late at most a missing right is noticed, beside the time between two probes. Each time costs the server about
# 30 ms for the service with the most queries.
EVERY_SECONDS = 5.0
# Of the time that a probe has. A busy server plans fewer queries in it, and is asked for the others by the next probes.
PROBE_SECONDS = 0.25
# A generic plan leaves no function out. Who waits longer for a lock than this is not ready, as the query isn't either.
_SETTINGS = "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL lock_timeout = '300ms'"
# EXPLAIN checks rights as an execution does, and executes nothing. Rolled back, the locks of planning are released.
_PLAN = "SAVEPOINT planned; PREPARE planned AS {}\n; EXPLAIN EXECUTE planned{}; DEALLOCATE planned; ROLLBACK TO planned"

_COMMENT = re.compile("--.*")
_PARAMETER = re.compile(r"\$(\d+)")
_TABLE = re.compile(r"\b(INSERT INTO|DELETE FROM|UPDATE|FROM|JOIN)\s+([a-z]+\.\w+)\b(?!\()(?:\s+AS (\w+))?")
_LOCKED = re.compile(r"FOR (?:UPDATE|KEY SHARE)(?: OF (\w+))?")
_ASSIGNED = re.compile(r"(?:\bSET|,)\s+(\w+) =")
_FUNCTION = re.compile(r"\b([a-z]+\.\w+)\(")
_RIGHTS = {"INSERT INTO": "INSERT", "DELETE FROM": "DELETE", "UPDATE": "UPDATE", "FROM": "SELECT", "JOIN": "SELECT"}
# $1 and $2: rights and the tables that they are needed on. $3: columns that are set. $4: functions that are called.
_MISSING = """
WITH used AS (
    -- A service inserts only into its own schema. In others it is granted columns, and not tables.
    SELECT wanted.*, oid, format('%s.%s', nspname, relname) AS name, EXISTS (
        SELECT FROM pg_class AS other WHERE other.relnamespace = tables.relnamespace AND relkind IN ('r', 'p')
            AND has_table_privilege(other.oid, 'INSERT')
    ) AS own
    FROM unnest($1::text[], $2::text[]) AS wanted (privilege, wanted_name)
    JOIN (SELECT c.*, nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace) AS tables
        ON format('%s.%s', nspname, relname) = wanted_name
)
SELECT DISTINCT format('GRANT %s TO %I;', missing, coalesce((
    -- A login has its rights by the role that all logins of the service share (deploy/sql/roles.sql).
    SELECT min(pg_get_userbyid(roleid)) FROM pg_auth_members WHERE member = current_user::regrole
), current_user)) FROM (
    SELECT 'USAGE ON SCHEMA ' || nspname AS missing FROM pg_namespace
    WHERE nspname IN (SELECT split_part(unnest($2 || $4::text[]), '.', 1)) AND NOT has_schema_privilege(oid, 'USAGE')
    UNION ALL
    SELECT format('%s ON %s', privilege, name) FROM used
    WHERE (own OR privilege <> 'UPDATE' OR $3::text[] = '{}') AND NOT has_table_privilege(oid, privilege)
    UNION ALL
    SELECT format('UPDATE (%s) ON %s', string_agg(attname, ', ' ORDER BY attnum), name)
    FROM used JOIN pg_attribute ON attrelid = used.oid AND attname = ANY ($3)
    WHERE privilege = 'UPDATE' AND NOT own AND NOT has_column_privilege(used.oid, attnum, 'UPDATE') GROUP BY name
    UNION ALL
    SELECT format('EXECUTE ON FUNCTION %s.%s', nspname, proname)
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace
    WHERE format('%s.%s', nspname, proname) = ANY ($4) AND NOT has_function_privilege(p.oid, 'EXECUTE')
) AS rights ORDER BY 1
"""


class QueryRefused(Unavailable):
    """The server does not execute one of the service's queries."""


class QueryCheck:
    """Has each query planned once in EVERY_SECONDS, and one that can't be at each call until it can."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        self._queries = queries
        self._left: list[str] = []
        self._next_at = 0.0

    async def run(self, db: Connection) -> None:
        """Plan queries for PROBE_SECONDS at most. Raises QueryRefused, which names the query and the missing right."""
        began = time.monotonic()
        if not self._left and began >= self._next_at:
            self._left, self._next_at = list(self._queries), began + EVERY_SECONDS
        async with in_transaction(db):  # behind a pooler, one server for all that follows
            await db.execute(_SETTINGS)
            while self._left and time.monotonic() < began + PROBE_SECONDS:
                await _plan(db, self._left[0], self._queries[self._left[0]])
                self._left.pop(0)


async def _plan(db: Connection, name: str, query: str) -> None:
    nulls = ["NULL"] * max(map(int, _PARAMETER.findall(query)), default=0)
    try:
        await db.execute(_PLAN.format(query, f"({', '.join(nulls)})" if nulls else ""))
    except asyncpg.PostgresError as error:
        await db.execute("ROLLBACK TO planned")
        grants = await _missing(db, query) if isinstance(error, asyncpg.InsufficientPrivilegeError) else []
        with suppress(asyncpg.InvalidSQLStatementNameError):  # it could not even be prepared
            await db.execute("DEALLOCATE planned")
        raise QueryRefused(" ".join([f"query {name}: {error.args[0]}.", *grants])) from error


async def _missing(db: Connection, query: str) -> list[str]:
    """Return the commands that grant what the role lacks for a query."""
    text = _COMMENT.sub("", query)
    locked, upserts = set(_LOCKED.findall(text)), "DO UPDATE" in text
    used = set()
    for verb, table, alias in _TABLE.findall(text):
        used |= {(_RIGHTS[verb], table), ("SELECT", table)}
        if upserts if verb == "INSERT INTO" else _RIGHTS[verb] == "SELECT" and locked & {"", alias}:
            used.add(("UPDATE", table))
    rights, tables = [right for right, _ in used], [table for _, table in used]
    rows = await db.fetch(_MISSING, rights, tables, _ASSIGNED.findall(text), _FUNCTION.findall(text))
    return [row[0] for row in rows]
