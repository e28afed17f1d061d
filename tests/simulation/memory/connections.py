"""What the product's store functions are given in place of a connection, a session and a pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from shared.postgres import Connection, Pool, Session
from tests.simulation.memory.tables import Database, Row


class MemoryConnection:
    """Runs queries at once, each a transaction by itself unless somebody else ends it."""

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
        """Run a query for its effect; return its tag, which ends with the number of rows."""
        return f"DONE {len(await self.fetch(sql, *arguments) or ())}"


class MemorySession(Session):
    """A session whose transactions are committed at once and always."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection; commit what was done with it, or roll back when that raises."""
        try:
            yield cast("Connection", MemoryConnection(self._database, commits=False))
        except BaseException:
            self._database.roll_back()
            raise
        self._database.commit()

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Lend a connection for one statement, which is a transaction by itself."""
        async with self.transaction() as connection:
            yield connection


class MemoryPool(Pool):
    """A pool likewise; outside a transaction each query is one by itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection that commits after each query."""
        yield cast("Connection", MemoryConnection(self._database, commits=True))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction."""
        async with MemorySession(self._database).transaction() as connection:
            yield connection
