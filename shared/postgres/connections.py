"""Named queries, a small pool for reads, and sessions that own one connection for a hot path."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy
from prometheus_client import Counter

from shared.postgres.connecting import (
    CONNECT_TIMEOUT_SECONDS,
    CheckedConnection,
    DatabaseSettings,
    ReadOnlyServer,
    connect,
)
from shared.postgres.connection_metrics import CONNECTIONS, Use
from shared.postgres.errors import is_transient, translated
from shared.refusals import NothingSent

# What a pool lends behaves like a connection; only its type differs.
Connection = asyncpg.Connection | PoolConnectionProxy
Row = asyncpg.Record

log = structlog.get_logger()

RECONNECTS = Counter("postgres_reconnects_total", "Connections reopened after they broke", ["session"])
LOST_SETTINGS = Counter(
    "postgres_settings_lost_total", "Checks that found a session without the settings it needs", ["session"]
)

# After this time, a pool asks a connection's server again whether it accepts writes. Behind a pooler, the server of a
# connection may change, or its role.
CHECKED_WITHIN_SECONDS = 2.0
# A plan for a small table may scan a whole index, and it is kept until statistics change. A session makes new plans
# once it has run twice as many transactions. So plans follow the growth, at a small share of its cost.
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
    """Close a connection normally within `seconds`, or drop it."""
    try:
        await connection.close(timeout=seconds)
    except Exception:  # noqa: BLE001 - any error that prevents a normal close
        connection.terminate()


@asynccontextmanager
async def in_transaction(connection: Connection) -> AsyncIterator[None]:
    """Run the body in a transaction of a connection that is dropped after a cancellation or a timeout."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except (asyncio.CancelledError, TimeoutError):
        raise  # the connection is dropped: a rollback would fail, or wait for a server that hangs
    except BaseException:
        await transaction.rollback()
        raise
    await transaction.commit()


@asynccontextmanager
async def connected(
    settings: DatabaseSettings, application: str, *, url: str | None = None
) -> AsyncIterator[CheckedConnection]:
    """Open a connection for the body, and close it in any case. Raises Unavailable, also for failures of the body.

    `url`: another address than the settings'.
    """
    with translated():
        connection = await connect(settings, application, url=url)
        try:
            with CONNECTIONS.of(application, 1, lambda: Use(1, 1)):
                yield connection
        finally:
            await close(connection, 1)


class Pool:
    """A small pool for everything that is not a hot path. It connects at its first use, so a service can start and
    report that it isn't ready while its database is down.

    `size`: the maximum number of connections, by default the settings'.
    """

    def __init__(self, settings: DatabaseSettings, application: str, *, size: int | None = None) -> None:
        self._settings = settings
        self._application = application
        self._size = settings.pool_size if size is None else size
        self._pool: asyncpg.Pool | None = None
        self._waiting = 0
        self._reported = ExitStack()

    async def __aenter__(self) -> "Pool":
        self._pool = await asyncpg.create_pool(
            min_size=0,
            max_size=self._size,
            max_inactive_connection_lifetime=300,
            connection_class=CheckedConnection,
            connect=self._connect,
            reset=_keep_settings,
        )
        self._reported.enter_context(CONNECTIONS.of(self._application, self._size, self._use))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._pool is not None
        self._reported.close()
        try:
            await asyncio.wait_for(self._pool.close(), self._settings.shutdown_seconds)
        except Exception:  # noqa: BLE001 - any error that prevents a normal close
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection outside a transaction. Raises Unavailable if there is none in time."""
        assert self._pool is not None
        with translated():
            connection = await self._acquire()
            try:
                yield connection
            except (asyncio.CancelledError, TimeoutError):
                _drop(connection)
                raise
            except asyncpg.ReadOnlySQLTransactionError:
                await self._drop_all(connection)
                raise
            except BaseException:
                await self._pool.release(connection)
                raise
            await self._pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction. Raises Unavailable if there is none in time."""
        async with self.connection() as connection, in_transaction(connection):
            yield connection

    @asynccontextmanager
    async def confirmed(self, write: str) -> AsyncIterator[Connection]:
        """Lend a connection for reads that may be used against others, and commit `write` after them.

        `write`: a statement that has a record in the WAL, and need not change anything. A primary that was cut off and
        replaced still answers reads, with what it had; but no standby acknowledges its commits. So after this commit,
        the reads are known to have been of the newest state. Raises Unavailable, also if nobody acknowledges.
        """
        async with self.transaction() as connection:
            yield connection
            await connection.execute(write)

    def _use(self) -> Use:
        assert self._pool is not None
        size = self._pool.get_size()
        return Use(size, size - self._pool.get_idle_size(), self._waiting)

    async def _connect(self, *_: Any, **__: Any) -> CheckedConnection:
        return await connect(self._settings, self._application)

    async def _acquire(self) -> PoolConnectionProxy:
        """Return a connection to a server that accepts writes: reads alone would not notice a former primary."""
        assert self._pool is not None
        while True:  # again only after a dropped connection: a new one was checked when it was opened
            self._waiting += 1
            try:
                connection = await self._pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS)
            finally:
                self._waiting -= 1
            try:
                if await cast("CheckedConnection", connection).takes_writes(within_seconds=CHECKED_WITHIN_SECONDS):
                    return connection
            except BaseException:
                _drop(connection)
                raise
            await self._drop_all(connection)

    async def _drop_all(self, connection: PoolConnectionProxy) -> None:
        """Drop a connection now, and the others at their next use: they lead to the same server."""
        assert self._pool is not None
        connection.terminate()
        await self._pool.expire_connections()


def _drop(connection: PoolConnectionProxy) -> None:
    """Drop a pool's connection whose state is unknown, unless it has done so itself, with its statement."""
    with suppress(asyncpg.InterfaceError):  # the pool has taken it back
        connection.terminate()


async def _keep_settings(_: asyncpg.Connection) -> None:
    """Skip asyncpg's reset, which costs a round trip and undoes the session's settings. Only transactions change a
    session."""


class Session:
    """One connection for one hot path. Callers wait for each other. There is no reset query between uses, prepared
    statements are kept, and a broken connection is opened again.

    `checked`: for a session that never writes, and so would not notice that its server became read-only.
    """

    def __init__(self, settings: DatabaseSettings, name: str, *, checked: bool = False) -> None:
        self._settings = settings
        self._name = name
        self._checked = checked
        self._connection: CheckedConnection | None = None
        self._lock = asyncio.Lock()
        self._reported = ExitStack()
        self._reconnects = RECONNECTS.labels(name)  # from 0 on: a rate would not count what the first value has
        self._losses = LOST_SETTINGS.labels(name)
        self._transactions = 0
        self._replan_after = 1
        self._replan_at = 0.0
        self._has_settings = True

    async def __aenter__(self) -> "Session":
        self._reported.enter_context(CONNECTIONS.of(self._name, 1, self._use))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reported.close()
        if self._connection is not None:
            if self._lock.locked():  # after a normal close, the driver would end the statement as if it had succeeded
                self._connection.terminate()
            await close(self._connection, self._settings.shutdown_seconds)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend the connection inside a transaction.

        Raises Unavailable if the server can't be reached or fails. Then it is unknown whether the transaction was
        committed, and the caller must read the state again before it acts.
        """
        async with self.statement() as connection, in_transaction(connection):
            yield connection

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Lend the connection outside a transaction: each statement commits by itself, without the round trips of
        BEGIN and COMMIT. Raises Unavailable as `transaction` does; with NothingSent, nothing was committed."""
        async with self._lock:
            with translated():
                try:
                    connection = await self._open()
                except Exception as error:
                    if is_transient(error):
                        raise NothingSent("The database can't be reached.") from error
                    raise
                try:
                    if self._checked and not await connection.takes_writes(within_seconds=CHECKED_WITHIN_SECONDS):
                        raise ReadOnlyServer
                    await self._replan(connection)
                    yield connection
                except BaseException as error:
                    # The connection's state is unknown, and a new one costs a millisecond.
                    if isinstance(error, asyncio.CancelledError | ReadOnlyServer) or is_transient(error):
                        connection.terminate()
                        self._connection = None
                    raise

    def _use(self) -> Use:
        is_open = self._connection is not None and not self._connection.is_closed()
        return Use(int(is_open), int(is_open and self._lock.locked()))

    async def _open(self) -> CheckedConnection:
        if self._connection is None or self._connection.is_closed():
            if self._connection is not None:
                self._reconnects.inc()
            self._connection = await connect(self._settings, self._name, hot=True)
            self._transactions, self._replan_after, self._replan_at = 0, 1, 0.0
        return self._connection

    async def _replan(self, connection: CheckedConnection) -> None:
        """Discard the server's plans after twice as many transactions as last time, and once a minute.

        Report a session that has lost its settings: the new plans would not be those that it was measured with.
        """
        self._transactions += 1
        now = time.monotonic()
        if self._transactions < self._replan_after and now < self._replan_at:
            return
        self._replan_after = self._transactions * 2
        self._replan_at = now + REPLAN_SECONDS
        await connection.execute("DISCARD PLANS")
        lost = await connection.lost_settings()
        if lost:
            self._losses.inc()
            if self._has_settings:
                log.error("session.settings_lost", session=self._name, settings=lost)
        self._has_settings = not lost
