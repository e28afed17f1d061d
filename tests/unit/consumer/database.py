"""A fake of the reference consumer's pool and of its connections."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from deploy.consumer.store import SQL

NAMES = {query: name for name, query in SQL.items()}


class Database:
    """Answers queries by their names in queries.sql, with nothing where no answer is given, and records them."""

    def __init__(self, **answers: Any) -> None:
        self.transactions = 0
        self._answers = answers
        self._queries: list[tuple[str, tuple[Any, ...]]] = []

    def arguments(self, name: str) -> list[tuple[Any, ...]]:
        """Return the arguments of each execution of a query."""
        return [arguments for query, arguments in self._queries if query == name]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Database"]:
        """Lend this as a connection."""
        yield self

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Database"]:
        """Lend this as a connection in a transaction."""
        self.transactions += 1
        yield self

    async def fetch(self, query: str, *arguments: Any) -> Any:
        """Return the answer to a query."""
        self._queries.append((NAMES[query], arguments))
        return self._answers.get(NAMES[query], [])

    fetchrow = fetchval = execute = executemany = fetch
