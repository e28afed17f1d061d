"""A service's queries are planned occasionally, within a probe's time; a failing query is planned at each probe."""

import re
import time
from collections.abc import Mapping
from typing import cast
from unittest.mock import AsyncMock

import asyncpg
import pytest

from shared.postgres.connections import Connection
from shared.postgres.query_check import PROBE_SECONDS, QueryCheck, QueryRefused

QUERIES = {"first": "SELECT 1", "second": "SELECT $1 + $2", "third": "SELECT 3"}
LATE_SECONDS = 0.2


class Server:
    """A fake connection that records which queries it has planned."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.refused: Mapping[str, Exception] = {}
        self.planned: list[str] = []

    def transaction(self) -> AsyncMock:
        return AsyncMock()

    async def execute(self, text: str) -> None:
        name = next((name for name, query in QUERIES.items() if f"AS {query}\n" in text), None)
        if name is not None:
            self.planned.append(name)
            time.sleep(self.seconds)  # noqa: ASYNC251 - as long as the clock is to go on
            if name in self.refused:
                raise self.refused[name]

    @property
    def connection(self) -> Connection:
        return cast("Connection", self)


async def test_each_query_is_planned_once_in_a_while() -> None:
    server, check = Server(), QueryCheck(QUERIES)
    for _ in range(10):
        await check.run(server.connection)
    assert server.planned == list(QUERIES)


async def test_busy_server_is_asked_for_the_rest_by_the_next_probes() -> None:
    server, check = Server(PROBE_SECONDS * 0.6), QueryCheck(QUERIES)
    began = time.monotonic()
    await check.run(server.connection)
    assert time.monotonic() - began < 2 * PROBE_SECONDS + LATE_SECONDS
    assert server.planned == ["first", "second"]
    await check.run(server.connection)
    assert server.planned == list(QUERIES)


async def test_query_that_is_refused_is_asked_for_at_each_probe_until_it_can_be_executed() -> None:
    server, check = Server(), QueryCheck(QUERIES)
    server.refused = {"second": asyncpg.UndefinedColumnError('column "price" does not exist')}
    for _ in range(2):
        with pytest.raises(QueryRefused, match='query second: column "price" does not exist'):
            await check.run(server.connection)
    server.refused = {}
    await check.run(server.connection)
    assert server.planned == ["first", "second", "second", "second", "third"]


@pytest.mark.parametrize(
    ("query", "rights"),
    [
        ("SELECT 1 FROM shop.things", {"SELECT"}),
        ("SELECT 1 FROM shop.things FOR UPDATE", {"SELECT", "UPDATE"}),
        ("INSERT INTO shop.things VALUES (1) ON CONFLICT (n) DO UPDATE SET n = 2", {"INSERT", "SELECT", "UPDATE"}),
        ("DELETE FROM shop.things", {"DELETE", "SELECT"}),
        (
            "SELECT 1 FROM shop.things JOIN shop.others AS o ON true FOR UPDATE OF o",
            {"SELECT", "SELECT others", "UPDATE others"},
        ),
    ],
)
async def test_rights_that_a_query_needs_are_asked_for(query: str, rights: set[str]) -> None:
    asked: set[str] = set()

    class Refusing(Server):
        async def execute(self, text: str) -> None:
            if query in text:
                raise asyncpg.InsufficientPrivilegeError("permission denied")

        async def fetch(self, _: str, privileges: list[str], tables: list[str], *__: object) -> list[tuple[str]]:
            asked.update(
                f"{right} {name[5:]}".removesuffix(" things") for right, name in zip(privileges, tables, strict=True)
            )
            return [("GRANT …;",)]

    with pytest.raises(QueryRefused, match=re.escape("query wanted: permission denied. GRANT …;")):
        await QueryCheck({"wanted": query}).run(Refusing().connection)
    assert asked == rights
