"""Simulates the connections to a database: statements take time, fail, or are executed without a confirmation."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from shared.postgres.connections import Connection, Pool, Session
from shared.refusals import Unavailable
from tests.simulation.memory.connections import MemoryConnection
from tests.simulation.memory.tables import Database, Row
from tests.simulation.world import World


class LinkedSession(Session):
    """A session over a simulated connection. Its transaction is committed in one step, or not at all."""

    def __init__(self, world: World, database: Database) -> None:
        self._world = world
        self._database = database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection. Raises Unavailable before the transaction, or after its commit."""
        world = self._world
        await world.delay()
        if world.happens("database_refuses"):
            raise Unavailable("refused")
        try:
            yield cast("Connection", MemoryConnection(self._database, commits=False))
        except BaseException:
            self._database.roll_back()
            raise
        world.committed(self._database)
        await world.delay()
        if world.happens("commit_result_lost"):
            raise Unavailable("committed, but not confirmed")

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Yield a connection for one statement, which fails or is committed like a transaction."""
        async with self.transaction() as connection:
            yield connection


class LinkedPool(Pool):
    """A pool over simulated connections."""

    def __init__(self, world: World, database: Database) -> None:
        self._world = world
        self._database = database

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection; each of its queries is a transaction."""
        yield cast("Connection", _LinkedConnection(self._world, self._database))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection inside a transaction."""
        async with LinkedSession(self._world, self._database).transaction() as connection:
            yield connection


class _LinkedConnection(MemoryConnection):
    def __init__(self, world: World, database: Database) -> None:
        super().__init__(database, commits=False)
        self._world = world
        self._used = False

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        # Most statements after the first are the sweep's counts. With a delay for each, they would be most steps.
        if not self._used or self._world.rng.random() < 0.2:
            await self._world.delay()
        self._used = True
        if self._world.happens("database_refuses"):
            raise Unavailable("refused")
        rows = await super().fetch(sql, *arguments)
        self._world.committed(self._database)
        if self._world.happens("commit_result_lost"):
            raise Unavailable("executed, but not confirmed")
        return rows
