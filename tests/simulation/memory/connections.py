"""Replaces the connection, session and pool that the product's store functions use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from shared.postgres.connections import Connection, Pool, Session
from tests.simulation.memory.tables import Database, Row


class MemoryConnection:
    """Runs queries on a database in memory. If it `commits`, each query is a transaction."""

    def __init__(self, database: Database, *, commits: bool) -> None:
        self._database = database
        self._commits = commits

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        """Return all rows."""
        rows = self._database.run(sql, arguments)
        if self._commits:
            self._database.commit()
        return cast("list[Row]", rows)

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        """Return the first row or None."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        """Return the first row's first value."""
        rows = await self.fetch(sql, *arguments)
        return next(iter(rows[0].values())) if rows else None

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Run a query; return its command tag, which ends with the number of rows."""
        return f"DONE {len(await self.fetch(sql, *arguments) or ())}"


class MemorySession(Session):
    """A session whose commits never fail."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection; commit its changes, or roll them back if the body raises."""
        try:
            yield cast("Connection", MemoryConnection(self._database, commits=False))
        except BaseException:
            self._database.roll_back()
            raise
        self._database.commit()

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Yield a connection for one statement, which is a transaction."""
        async with self.transaction() as connection:
            yield connection


class MemoryPool(Pool):
    """A pool whose commits never fail; outside a transaction, each query is one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection that commits after each query."""
        yield cast("Connection", MemoryConnection(self._database, commits=True))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection inside a transaction."""
        async with MemorySession(self._database).transaction() as connection:
            yield connection
