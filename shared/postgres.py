"""Postgres: named queries, a small pool for reads, and sessions that own one connection for a hot path.

Transient failures (sqlstates.py) become `Unavailable` here and nowhere else; constraint violations stay asyncpg's, for
the one place in each service's store.py that knows what they mean.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from prometheus_client import Counter

from shared import sqlstates
from shared.connecting import CONNECT_TIMEOUT_SECONDS, CheckedConnection, ReadOnlyServer, connect
from shared.refusals import NothingSent, Unavailable
from shared.settings import ServiceSettings

# What a pool lends behaves like a connection; only its type differs.
Connection = asyncpg.Connection | PoolConnectionProxy
Row = asyncpg.Record

RECONNECTS = Counter("postgres_reconnects_total", "Connections reopened after they broke", ["session"])

# How old a pool's knowledge may be that a connection leads to a server that takes writes. Behind a pooler the server
# may change its role, or be another one, while the connection stays.
CHECKED_WITHIN_SECONDS = 2.0
# What the driver raises itself: the connection, or the answer, is lost.
_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
# A plan made while a table was small or empty may walk through all of an index, and is kept until statistics change.
# Made anew when the session has done twice as much, plans follow the growth, and never cost more than a share of it.
REPLAN_SECONDS = 60.0
_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def load_queries(path: Path) -> Mapping[str, str]:
    """Return the queries of a file by name, each beginning at its line `-- name: lock_stock`."""
    parts = _NAME.split(path.read_text())
    queries = {name: sql.strip().rstrip(";") for name, sql in zip(parts[1::2], parts[2::2], strict=True)}
    if len(queries) != len(parts) // 2:
        raise ValueError(f"{path} names a query twice")
    return queries


async def close(connection: Connection, seconds: float) -> None:
    """Close a connection in order within `seconds`, or else drop it."""
    try:
        await connection.close(timeout=seconds)
    except Exception:  # noqa: BLE001 - whatever keeps it from closing in order
        connection.terminate()


class Pool:
    """A small pool for everything that is not a hot path. It connects when first used, so a service can
    start, and say that it isn't ready, while its database is away.

    `size`: connections at most, if not as many as the settings say.
    """

    def __init__(self, settings: ServiceSettings, application: str, *, size: int | None = None) -> None:
        self._settings = settings
        self._application = application
        self._size = settings.pool_size if size is None else size
        self._pool: asyncpg.Pool | None = None
        self._releasing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Pool":
        self._pool = await asyncpg.create_pool(
            min_size=0,
            max_size=self._size,
            max_inactive_connection_lifetime=300,
            connection_class=CheckedConnection,
            connect=self._connect,
            reset=_keep_settings,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), self._settings.shutdown_seconds)
        except Exception:  # noqa: BLE001 - whatever keeps it from closing in order
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection outside a transaction. Raises Unavailable when none can be had."""
        assert self._pool is not None
        with translated():
            connection = await self._acquire()
            try:
                yield connection
            except (asyncio.CancelledError, TimeoutError):
                self._release_later(connection)
                raise
            except asyncpg.ReadOnlySQLTransactionError:
                await self._drop_all(connection)
                raise
            except BaseException:
                await self._pool.release(connection)
                raise
            await self._pool.release(connection)

    def _release_later(self, connection: PoolConnectionProxy) -> None:
        """Release a connection without waiting for it. The driver first asks the server to cancel the statement, and a
        server that hangs takes CONNECT_TIMEOUT_SECONDS for that, until the connection is dropped."""
        assert self._pool is not None
        task = asyncio.create_task(self._pool.release(connection))
        self._releasing.add(task)
        task.add_done_callback(self._released)

    def _released(self, task: "asyncio.Task[None]") -> None:
        self._releasing.discard(task)
        if not task.cancelled():
            task.exception()  # the connection is dropped then, so there is nothing left to do

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction. Raises Unavailable when none can be had."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def _connect(self, *_: Any, **__: Any) -> CheckedConnection:
        return await connect(self._settings, self._application)

    async def _acquire(self) -> PoolConnectionProxy:
        """Return a connection to a server that takes writes: reads alone would not notice a former primary."""
        assert self._pool is not None
        while True:  # a second time only behind one that was dropped: a new one was checked when it was opened
            connection = await self._pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS)
            try:
                if await cast("CheckedConnection", connection).takes_writes(within_seconds=CHECKED_WITHIN_SECONDS):
                    return connection
            except BaseException:
                connection.terminate()
                raise
            await self._drop_all(connection)

    async def _drop_all(self, connection: PoolConnectionProxy) -> None:
        """Drop a connection now, and the others when they are wanted next: they lead to the same server."""
        assert self._pool is not None
        connection.terminate()
        await self._pool.expire_connections()


async def _keep_settings(_: asyncpg.Connection) -> None:
    """Do without asyncpg's reset, which costs a round trip and undoes the session's settings: nobody here changes a
    session but within a transaction."""


class Session:
    """One connection that belongs to one hot path: no reset query between uses, prepared statements kept,
    reopened when it breaks. Its users take turns.

    `checked`: to be set where nobody writes, which is how a session notices that its server takes no writes any more.
    """

    def __init__(self, settings: ServiceSettings, name: str, *, checked: bool = False) -> None:
        self._settings = settings
        self._name = name
        self._checked = checked
        self._connection: CheckedConnection | None = None
        self._turn = asyncio.Lock()
        self._transactions = 0
        self._replan_after = 1
        self._replan_at = 0.0

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            await close(self._connection, self._settings.shutdown_seconds)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Take a turn inside a transaction.

        Raises Unavailable when the server can't be reached or fails: then it is unknown whether the
        transaction was committed, and the caller must read again before it acts on either.
        """
        async with self.statement() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection
            except (asyncio.CancelledError, TimeoutError):
                raise  # `statement` drops the connection: a server that hangs would not answer a rollback either
            except BaseException:
                await transaction.rollback()
                raise
            await transaction.commit()

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Take a turn outside a transaction: each statement is one by itself, and saves the round trips of BEGIN and
        COMMIT. Raises Unavailable as `transaction` does: then it is unknown whether the last one was committed, except
        with NothingSent."""
        async with self._turn:
            with translated():
                try:
                    connection = await self._open()
                except Exception as error:
                    if is_transient(error):
                        raise NothingSent(f"The database can't be reached: {type(error).__name__}") from error
                    raise
                try:
                    if self._checked and not await connection.takes_writes(within_seconds=CHECKED_WITHIN_SECONDS):
                        raise ReadOnlyServer
                    await self._replan(connection)
                    yield connection
                except BaseException as error:
                    # In doubt about the connection's state: a new one costs a millisecond.
                    if isinstance(error, asyncio.CancelledError | ReadOnlyServer) or is_transient(error):
                        connection.terminate()
                        self._connection = None
                    raise

    async def _open(self) -> CheckedConnection:
        if self._connection is None or self._connection.is_closed():
            if self._connection is not None:
                RECONNECTS.labels(self._name).inc()
            self._connection = await connect(self._settings, self._name, hot=True)
            self._transactions, self._replan_after, self._replan_at = 0, 1, 0.0
        return self._connection

    async def _replan(self, connection: asyncpg.Connection) -> None:
        """Let the server forget its plans at twice the transactions of last time, and once a minute."""
        self._transactions += 1
        now = time.monotonic()
        if self._transactions < self._replan_after and now < self._replan_at:
            return
        self._replan_after = self._transactions * 2
        self._replan_at = now + REPLAN_SECONDS
        await connection.execute("DISCARD PLANS")


def is_about_the_batch(error: Exception) -> bool:
    """Say whether a failed batch may succeed in part when its items are tried one by one.

    A deadlock or a broken rule concerns some of the items; a server out of reach concerns them all.
    """
    if isinstance(error, Unavailable):
        return isinstance(error.__cause__, asyncpg.TransactionRollbackError)
    return isinstance(error, asyncpg.PostgresError)


def is_transient(error: BaseException) -> bool:
    """Return whether an error of the driver or the server is transient: see shared/sqlstates.py."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return True  # a migration has added a column to what a transaction reads; the repeat plans anew
    if isinstance(error, asyncpg.PostgresError):
        return sqlstates.is_transient(error.sqlstate, error.severity_en)
    return isinstance(error, _LOST)


def needs_operator(error: Unavailable) -> bool:
    """Return whether the server refused a statement for what lasts until an operator mends it.

    Then it is known that nothing was committed, and there is no point in repeating the statement at once.
    """
    cause = error.__cause__
    return (
        isinstance(cause, asyncpg.PostgresError)
        and cause.severity_en == "ERROR"  # else the session may have ended in the middle of a commit
        and sqlstates.needs_operator(cause.sqlstate or "")
    )


def explain(error: BaseException) -> str:
    """Return an error with the database's own words behind it and what they mean, for the log."""
    cause = error.__cause__ if isinstance(error, Unavailable) else error
    if not isinstance(cause, asyncpg.PostgresError):
        return str(error) or type(error).__name__
    return f"{type(cause).__name__}: {cause.args[0]} ({sqlstates.reason(cause.sqlstate or '')})"


class translated:  # noqa: N801 - reads as a word in `with translated():`
    """Turn transient failures of the database into Unavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if error is not None and is_transient(error):
            raise Unavailable(f"The database can't serve this now: {type(error).__name__}") from error
