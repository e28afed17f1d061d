"""What the process runs on, to be copied unchanged: a log, loops that survive failures, and connections to Postgres."""

import asyncio
import json
import logging
import os
import queue
import threading
import time
from asyncio.staggered import staggered_race
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import structlog
from aiokafka.errors import KafkaError
from asyncpg.pool import PoolConnectionProxy
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector

from .settings import ConsumerSettings

log = structlog.get_logger()

Connection = asyncpg.Connection | PoolConnectionProxy

REGISTRY = CollectorRegistry()
for collector in (ProcessCollector, PlatformCollector, GCCollector):
    collector(registry=REGISTRY)
LOST_LINES = Counter("log_lines_lost_total", "Log lines that could not be written", registry=REGISTRY)
FAILED_ROUNDS = Counter(
    "background_failed_rounds_total", "Rounds of loops that failed", ["loop", "cause"], registry=REGISTRY
)
INFO = Gauge("build_info", "1, with the build as labels", ["service", "version", "revision"], registry=REGISTRY)
INFO.labels("consumer", os.environ.get("BUILD_VERSION", ""), os.environ.get("BUILD_REVISION", "")).set(1)
SKEW = Gauge("host_clock_skew_seconds", "How far this host's clock is ahead of the database's", registry=REGISTRY)

LINES_MAX = 10_000  # waiting to be written
BACKOFF_SECONDS = 0.5
PAUSE_MAX_SECONDS = 5.0  # how late a loop may notice that what it needs is back
CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 10.0
NEXT_HOST_SECONDS = 0.5  # how long a silent host of several delays the next one
SKEW_MAX_SECONDS = 300.0
# What server, database or role may have set otherwise. By a statement, because poolers refuse unknown parameters.
SET_UP = """
SELECT set_config('default_transaction_isolation', 'read committed', false),
       set_config('idle_session_timeout', '0', false),
       set_config('client_connection_check_interval', '1s', false),
       set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false)
"""
# SQLSTATEs, or their classes, of mistakes in our SQL or its values; no retry helps. The exceptions are what an operator
# mends: a missing right, or a table, column or function of a migration that was not applied yet.
BUGS = ("0A", "21", "22", "23", "42", "P0")
MENDED = ("42501", "42703", "42704", "42883", "42P01", "42P05", "42P10")


class Unavailable(Exception):  # noqa: N818 - transient
    """The database or the relay did not answer; the next try may succeed."""


class ReadOnlyServer(Unavailable):
    """The database takes no writes: the server is a standby, or default_transaction_read_only is on."""


class LogWriter:
    """Writes lines to a descriptor in a thread of its own.

    So a reader that hangs or is gone never stops or delays the consumer: lines that can't be written are dropped.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        threading.Thread(target=self._write_all, daemon=True).start()
        self.debug = self.info = self.warning = self.error = self.critical = self.write

    def write(self, line: str) -> None:
        """Have a line written, or drop it if too many wait."""
        if self._lines.qsize() < LINES_MAX:
            self._lines.put(line)
        else:
            LOST_LINES.inc()

    def flush(self, seconds: float = 1.0) -> None:
        """Wait until the lines are written, but no longer than `seconds`."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(seconds)

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            data = line.encode("utf-8", "backslashreplace") + b"\n"
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                LOST_LINES.inc()


class LogHandler(logging.Handler):
    """Passes records of libraries on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on. A record that can't be rendered harms nobody."""
        with suppress(Exception):
            log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def configure_log(level: str, fmt: str) -> LogWriter:
    """Send all logs to standard output, as JSON or, with `fmt` console, for people. Return their writer."""
    writer = LogWriter(1)
    last: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    if fmt == "console":
        last = [structlog.dev.ConsoleRenderer(colors=os.isatty(1))]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lambda _logger, _method, event: {"service": "consumer", **event},
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[LogHandler()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each try of each connection
    return writer


async def repeat(name: str, seconds: float, work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Run `work` every `seconds` until `stop` is set, whatever it raises.

    Each failure is counted. It is logged when it begins, changes and ends. Repeated failures make the pauses longer.
    """
    failures, known = 0, set[object]()
    while not stop.is_set():
        pause = seconds
        try:
            await work()
            if failures:
                log.info("loop.recovered", loop=name, failed_rounds=failures)
            failures, known = 0, set()
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise  # this task is cancelled, and not a task that `work` waited for
            failures += 1
            pause = max(seconds, min(BACKOFF_SECONDS * 2.0 ** min(failures - 1, 30), PAUSE_MAX_SECONDS))
            transient = isinstance(error, (Unavailable, KafkaError, OSError, TimeoutError))
            FAILED_ROUNDS.labels(name, "transient" if transient else "bug").inc()
            kind = (type(error), type(error.__cause__))
            if kind not in known:
                known.add(kind)
                level = logging.WARNING if transient else logging.ERROR
                log.log(
                    level, "loop.round_failed", loop=name, detail=repr(error), exc_info=None if transient else error
                )
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()


class Pool:
    """A few connections to Postgres, opened when they are needed: so the process can start without the database."""

    def __init__(self, settings: ConsumerSettings, size: int | None = None) -> None:
        """`size`: how many connections at most, by default as many as the settings say."""
        self._settings = settings
        self._size = size or settings.pool_size
        self._pool: asyncpg.Pool | None = None

    async def __aenter__(self) -> "Pool":
        # Without the driver's reset, which would undo SET_UP.
        self._pool = await asyncpg.create_pool(
            min_size=0, max_size=self._size, connect=self._connect, reset=_keep_settings
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._pool is not None
        try:
            await asyncio.wait_for(self._pool.close(), self._settings.shutdown_seconds)
        except Exception:  # noqa: BLE001 - a server that hangs must not delay the stop
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection to a server that takes writes. Raises Unavailable."""
        assert self._pool is not None
        try:
            connection = await self._pool.acquire(timeout=CONNECT_SECONDS)
            try:
                await check_writable(connection)
                yield connection
            except BaseException as error:
                connection.terminate()  # its state is in doubt, and a new one costs a millisecond
                if isinstance(error, ReadOnlyServer):
                    await self._pool.expire_connections()  # the others lead to the same server
                raise
            finally:
                await self._pool.release(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            state = getattr(error, "sqlstate", None) or ""
            if state[:2] in BUGS and state not in MENDED:
                raise
            raise Unavailable(f"the database can't serve this now: {type(error).__name__}: {error}") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection in a transaction. Raises Unavailable.

        The server ends the transaction if this process is paused in it: other processes would wait for its locks.
        """
        async with self.connection() as db, db.transaction():
            await db.execute("SET LOCAL idle_in_transaction_session_timeout = '3s'")  # they take milliseconds
            yield db

    async def _connect(self, *_: Any, **__: Any) -> asyncpg.Connection:
        """Open a connection to the first host that takes writes."""
        openings = [partial(self._open, address) for address in addresses(self._settings.current_database_url())]
        async with asyncio.timeout(CONNECT_SECONDS):
            connection, _index, errors = await staggered_race(openings, NEXT_HOST_SECONDS)
        if connection is None:
            raise errors[-1] or TimeoutError
        assert isinstance(connection, asyncpg.Connection)
        return connection

    async def _open(self, address: str) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(
            address,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            statement_cache_size=self._settings.statement_cache_size,
        )
        try:
            await connection.execute(SET_UP)
            await check_writable(connection)
            await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        except BaseException:
            connection.terminate()
            raise
        return connection


async def all_of(works: Iterable[Awaitable[None]]) -> None:
    """Run all at once, each to its end: what one needs and lacks must not stop the others. Raise the worst error."""
    ended = await asyncio.gather(*works, return_exceptions=True)
    errors = [error for error in ended if error is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, (Unavailable, KafkaError, TimeoutError)))


async def _keep_settings(_: asyncpg.Connection) -> None:
    pass


async def check_writable(connection: Connection) -> None:
    """Raise ReadOnlyServer if the server takes no writes."""
    if await connection.fetchval("SHOW transaction_read_only", timeout=CONNECT_SECONDS) != "off":
        raise ReadOnlyServer(ReadOnlyServer.__doc__)


def addresses(url: str) -> list[str]:
    """Return one address for each host: the driver would wait for a silent host, and not try the next one."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [url]
    return [parts._replace(netloc=login + at + host).geturl() for host in hosts.split(",")]


async def check_clock(db: Connection) -> None:
    """Compare this host's clock with the database's. Raises Unavailable if they differ by minutes: one is wrong."""
    asked_at = time.time()
    now = await db.fetchval("SELECT clock_timestamp()")
    ahead_seconds = (asked_at + time.time()) / 2 - now.timestamp()
    SKEW.set(ahead_seconds)
    if abs(ahead_seconds) > SKEW_MAX_SECONDS:
        direction = "ahead of" if ahead_seconds > 0 else "behind"
        raise Unavailable(f"this host's clock is {abs(ahead_seconds):.0f} s {direction} the database's")
