"""Postgres' work for a checkout, statement by statement, from pg_stat_statements."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.infrastructure.services import SCHEMAS, queries_of

SETTINGS = ("pg_stat_statements.max=5000",)
READ = """
    SELECT r.rolname, s.query, s.toplevel, sum(s.calls)::bigint, sum(s.rows)::bigint,
           sum(s.total_exec_time + s.total_plan_time)::float8, sum(s.wal_bytes)::bigint
    FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid
    WHERE r.rolname LIKE '%\\_service\\_a'
    GROUP BY 1, 2, 3
"""
_CONSTANT = re.compile(r"'(?:[^']|'')*'|\$\d+|\b\d+(?:\.\d+)?\b|\b(?:true|false|null)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a service. `milliseconds`: the server's time for planning and executing all calls."""

    service: str
    query: str
    toplevel: bool
    calls: int
    rows: int
    milliseconds: float
    wal_bytes: int

    @property
    def commits(self) -> bool:
        """Return whether it ends a transaction."""
        return self.query.upper().startswith(("COMMIT", "END"))


def reset(url: str) -> None:
    """Reset the counts."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_statements_reset()")


def read(url: str) -> list[Statement]:
    """Return the statements counted since then, the most expensive first."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(READ.encode()).fetchall()
    found = [Statement(role.removesuffix("_service_a"), *rest) for role, *rest in rows]
    return sorted(found, key=lambda statement: -statement.milliseconds)


def names() -> Mapping[str, str]:
    """Return the name of every query of the product, by its normalised text."""
    return {form(text): name for service in SCHEMAS for name, text in queries_of(service).items()}


def form(query: str) -> str:
    """Return a query's text on one line, without comments, and without constants, which the statistics replace."""
    text = " ".join(re.sub(r"--[^\n]*", "", query).split()).rstrip(";")
    return _CONSTANT.sub("?", text)


def label(query: str, known: Mapping[str, str]) -> str:
    """Return a query's name in queries.sql, or else its first words."""
    return known.get(form(query), " ".join(query.split())[:60])


def round_trips(statements: Sequence[Statement]) -> Mapping[str, int]:
    """Return the number of each service's calls of Postgres; a function counts as one call."""
    sums: dict[str, int] = {}
    for statement in statements:
        if statement.toplevel:
            sums[statement.service] = sums.get(statement.service, 0) + statement.calls
    return sums


def server_log(data_directory: Path) -> Path:
    """Return the log file of a measurement's server."""
    return data_directory.parent / "log"
