"""Opens connections to Postgres: to a server that takes writes, in UTF-8, with the settings that sessions rely on."""

import asyncio
import time
from asyncio.staggered import staggered_race
from collections.abc import Mapping
from functools import partial

import asyncpg
import orjson

from shared import database_url
from shared.database_url import DatabaseUrl, Host
from shared.refusals import NothingSent, Unavailable
from shared.settings import ServiceSettings

CONNECT_TIMEOUT_SECONDS = 5.0
# Longer than any lock queue seen under load, shorter than a client's patience.
COMMAND_TIMEOUT_SECONDS = 10.0
# When the next host of several is tried beside one that is silent: longer than a server takes that is only busy.
NEXT_HOST_SECONDS = 0.5
ENCODING = "UTF8"
# What server, database or role may have set otherwise. An operator's limits (of statements, locks, transactions) stay:
# running into one is transient.
SESSION_SETTINGS: Mapping[str, str] = {
    "default_transaction_isolation": "read committed",  # commands read what the lock's last holder committed
    "idle_session_timeout": "0",  # sessions, and those who listen, wait for work as long as there is none
}
# Generic plans more than halve Postgres' CPU for small batches, and a plan made while a table was empty must not fall
# back to reading all of it once it has grown.
HOT_SETTINGS: Mapping[str, str] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
# By a statement, not in the startup packet: a pooler refuses parameters there that it does not know, and reports what
# the server said when the pooler connected, not what holds now. A commit must outlive a crash of the server; for how
# many standbys it waits is the operator's choice.
_OPEN = """
SELECT current_setting('transaction_read_only'),
       set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false),
       (SELECT count(set_config(name, value, false)) FROM unnest($1::text[], $2::text[]) AS t (name, value))
"""


class CheckedConnection(asyncpg.Connection):
    """A connection that knows when the server was last seen to take writes."""

    __slots__ = ("_checked_at",)
    _checked_at: float

    async def takes_writes(self, *, within_seconds: float = 0.0) -> bool:
        """Ask the server whether it takes writes, unless it said so within that time.

        Raises what asyncpg raises when the server does not answer.
        """
        if time.monotonic() - self._checked_at < within_seconds:
            return True
        began = time.monotonic()
        if await self.fetchval("SHOW transaction_read_only", timeout=CONNECT_TIMEOUT_SECONDS) != "off":
            return False
        self._checked_at = began
        return True

    @property
    def turned_read_only(self) -> bool:
        """Return whether the server has said by itself, with its last answer, that it takes no writes any more.

        A pooler does not pass this on.
        """
        reported = self.get_settings()
        return "on" in (
            getattr(reported, "in_hot_standby", "off"),
            getattr(reported, "default_transaction_read_only", "off"),
        )

    async def set_up(self, settings: Mapping[str, str]) -> None:
        """Make the new connection ready for use. Raises Unavailable if it leads to where it must not."""
        encoding = getattr(self.get_settings(), "server_encoding", ENCODING)
        if encoding != ENCODING:
            raise WrongEncoding(encoding)
        self._checked_at = time.monotonic()
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


class ReadOnlyServer(NothingSent):
    """The database takes no writes: its server is a standby, or default_transaction_read_only is on."""


class WrongEncoding(NothingSent):
    """The database's encoding is not UTF8, so it can't hold every text."""

    def __init__(self, encoding: str) -> None:
        super().__init__(f"The database's encoding is {encoding}. It must be {ENCODING}: create it anew, with that.")


async def connect(
    settings: ServiceSettings, application: str, *, hot: bool = False, url: str | None = None
) -> CheckedConnection:
    """Open a connection to the first host that takes writes. `hot` pins plans for set-based statements.

    `url`: another address than the settings'. Raises Unavailable, or what asyncpg raises when no server answers.
    """
    address = database_url.parse(url or settings.database_url)
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
    settings: ServiceSettings, address: DatabaseUrl, host: Host | None, application: str, *, hot: bool
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
