"""Opens connections to a Postgres server that accepts writes, in UTF-8, with the settings that sessions need."""

import asyncio
import time
from asyncio.staggered import staggered_race
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import asyncpg
import orjson
from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from shared.notation import Seconds, TextInput
from shared.postgres import database_url
from shared.postgres.database_url import DatabaseUrl, Host
from shared.refusals import NothingSent, Unavailable
from shared.secrecy import Public, Secret

CONNECT_TIMEOUT_SECONDS = 5.0
# Longer than any lock queue measured under load, shorter than clients wait.
COMMAND_TIMEOUT_SECONDS = 10.0
# If a host does not answer for this long, the next one is tried as well. A server that is only busy answers sooner.
NEXT_HOST_SECONDS = 0.5
ENCODING = "UTF8"
# Settings that the server, the database or the role may have changed. An operator's limits (statement, lock and
# transaction timeouts) stay: exceeding one is a transient error.
SESSION_SETTINGS: Mapping[str, str] = {
    "default_transaction_isolation": "read committed",  # commands read what the lock's last holder committed
    "idle_session_timeout": "0",  # sessions and listeners may wait for work for ever
    # How soon the server ends a statement whose client is gone, for example in a lock queue. A commit that waits for a
    # standby waits on.
    "client_connection_check_interval": "1s",
}
# Generic plans more than halve Postgres' CPU for small batches. A plan that was made for an empty table must not scan
# all of it once it has grown.
HOT_SETTINGS: Mapping[str, str] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
# In a statement, not in the startup packet: a pooler refuses unknown parameters there, and reports values from the time
# at which the pooler connected. A commit must survive a crash of the server. The operator chooses how many standbys it
# waits for.
_OPEN = """
SELECT current_setting('transaction_read_only'),
       set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false),
       (SELECT count(set_config(name, value, false)) FROM unnest($1::text[], $2::text[]) AS t (name, value))
"""
_LOST = """
SELECT name FROM unnest($1::text[], $2::text[]) AS t (name, value) WHERE current_setting(name) <> value
"""


def _postgres_url(url: str) -> str:
    database_url.parse(url).check_certificates()
    return url


def _postgres_url_file(path: str) -> str:
    database_url.read(Path(path))
    return path


PostgresUrl = Annotated[Secret[str], AfterValidator(_postgres_url)]
PostgresUrlFile = Annotated[Public[str], Field(min_length=1), AfterValidator(_postgres_url_file)]


class DatabaseSettings(TextInput):
    """The settings of a service that connections need. One of the first two is set."""

    # Read for each new connection, so that the password, or the whole address, can be replaced while the process runs.
    database_url_file: PostgresUrlFile | None = None
    database_url: Annotated[PostgresUrl | None, Field(validate_default=True)] = None
    # Prepared statements don't survive a transaction-pooling pgbouncer older than 1.21: set 0 behind one.
    statement_cache_size: Annotated[int, Field(ge=0)] = 256
    pool_size: Annotated[int, Field(ge=1, le=100)] = 4
    shutdown_seconds: Seconds = 5.0

    @field_validator("database_url")
    @classmethod
    def _one_address(cls, url: str | None, info: ValidationInfo) -> str | None:
        if "database_url_file" not in info.data:  # it is wrong, which is reported
            return url
        if url is None and info.data["database_url_file"] is None:
            raise PydanticCustomError("missing", "is not set")
        if url is not None and info.data["database_url_file"] is not None:
            raise ValueError("is set, and its file as well: set one of them")
        return url

    def current_database_url(self) -> str:
        """Return the database's address as it is now. Raises AddressUnreadable."""
        return current(self.database_url, self.database_url_file)


def current(url: str | None, file: str | None) -> str:
    """Return the address, or else the one that is in the file now. Raises AddressUnreadable."""
    if url is not None:
        return url
    assert file is not None, "the settings have one of them"
    try:
        return database_url.read(Path(file))
    except ValueError as error:
        raise AddressUnreadable from ValueError(f"{file} {error}")


class CheckedConnection(asyncpg.Connection):
    """A connection that records when its server last accepted writes, and that never cancels a statement."""

    __slots__ = ("_checked_at", "_own_settings")
    _checked_at: float
    _own_settings: Mapping[str, str]

    async def takes_writes(self, *, within_seconds: float = 0.0) -> bool:
        """Return whether the server accepts writes; ask unless it said so in the last `within_seconds`.

        Raises asyncpg's errors if the server does not answer.
        """
        if time.monotonic() - self._checked_at < within_seconds:
            return True
        began = time.monotonic()
        if await self.fetchval("SHOW transaction_read_only", timeout=CONNECT_TIMEOUT_SECONDS) != "off":
            return False
        self._checked_at = began
        return True

    def _cancel_current_command(self, *_: object) -> None:
        """Drop the connection where the driver would ask the server to cancel its statement.

        A commit that waits for a standby would stop waiting, and others would read, and acknowledge, what no standby
        has. The driver calls this when a statement takes too long or its caller is cancelled. Later would be too late:
        before the error reaches the connection's owner, others may clean up, which takes time.
        """
        asyncio.get_running_loop().call_soon(self.terminate)  # first the driver has to end the statement for its caller

    @property
    def turned_read_only(self) -> bool:
        """Return whether the server reported with its last answer that it no longer accepts writes.

        A pooler does not forward this report.
        """
        reported = self.get_settings()
        return "on" in (
            getattr(reported, "in_hot_standby", "off"),
            getattr(reported, "default_transaction_read_only", "off"),
        )

    async def lost_settings(self) -> list[str]:
        """Return the settings that this session was given and does not have any more.

        Behind a pooler that lends a server's connection for one transaction, the next one may have none of them.
        """
        names, values = list(self._own_settings), list(self._own_settings.values())
        return [row["name"] for row in await self.fetch(_LOST, names, values)]

    async def set_up(self, settings: Mapping[str, str]) -> None:
        """Prepare a new connection. Raises Unavailable if its server is read-only or its database is not in UTF-8."""
        encoding = getattr(self.get_settings(), "server_encoding", ENCODING)
        if encoding != ENCODING:
            raise WrongEncoding(encoding)
        self._checked_at = time.monotonic()
        self._own_settings = settings
        row = await self.fetchrow(_OPEN, list(settings), list(settings.values()))
        assert row is not None
        if row["current_setting"] != "off":
            raise ReadOnlyServer
        for kind in ("json", "jsonb"):
            await self.set_type_codec(
                kind,
                encoder=lambda value: orjson.dumps(value).decode(),
                decoder=orjson.loads,
                schema="pg_catalog",
            )


class AddressUnreadable(NothingSent):
    """The database's address can't be read from its file."""


class ReadOnlyServer(NothingSent):
    """The database takes no writes: its server is a standby, or default_transaction_read_only is on."""


class WrongEncoding(NothingSent):
    """The database's encoding is not UTF8, so it can't hold every text."""

    def __init__(self, encoding: str) -> None:
        super().__init__(f"The database's encoding is {encoding}. It must be {ENCODING}: create it anew, with that.")


async def connect(
    settings: DatabaseSettings, application: str, *, hot: bool = False, url: str | None = None
) -> CheckedConnection:
    """Open a connection to the first host that accepts writes. `hot` pins plans for set-based statements.

    `url`: used instead of the settings' address. Raises Unavailable, or asyncpg's errors if no server answers.
    """
    address = database_url.parse(url or settings.current_database_url())
    opening = [partial(_connect, settings, address, host, application, hot=hot) for host in address.hosts or (None,)]
    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
        if len(opening) == 1:
            return await opening[0]()
        connection, _, errors = await staggered_race(opening, NEXT_HOST_SECONDS)
    if connection is None:
        raise next((error for error in errors if isinstance(error, Unavailable)), None) or errors[-1] or TimeoutError()
    assert isinstance(connection, CheckedConnection)
    return connection


async def _connect(
    settings: DatabaseSettings, address: DatabaseUrl, host: Host | None, application: str, *, hot: bool
) -> CheckedConnection:
    prefix = address.parameters.get("application_name")
    name = f"{prefix} {application}" if prefix else application
    connection = await asyncpg.connect(
        **address.asyncpg_options(host, {"application_name": name}),
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        statement_cache_size=settings.statement_cache_size,
        connection_class=CheckedConnection,
    )
    try:
        await connection.set_up({**SESSION_SETTINGS, **HOT_SETTINGS} if hot else SESSION_SETTINGS)
    except BaseException:
        connection.terminate()
        raise
    return connection
