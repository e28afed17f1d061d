"""A connection whose server has become read-only is not used again, and one that is opened then writes."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Any

import pytest

from services.balance.settings import Settings
from shared.postgres.connecting import ReadOnlyServer
from shared.postgres.connections import Connection, Pool, Session
from shared.refusals import Unavailable

# A session of which this is set is refused as one of a standby is.
TURN_READ_ONLY = "SET default_transaction_read_only = on"
WRITE = "CREATE TABLE never_written (id int)"


@pytest.fixture
def settings(postgres_url: str) -> Settings:
    return Settings(database_url=postgres_url, pool_size=1)


async def process(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT pg_backend_pid()"))


def forget_answer(connection: Connection) -> None:
    """Make its last answer older than CHECKED_WITHIN_SECONDS."""
    lent: Any = connection
    getattr(lent, "_con", lent)._checked_at = -inf


async def turn_and_write(connection: Connection) -> None:
    await connection.execute(TURN_READ_ONLY)
    await connection.execute(WRITE)


async def assert_dropped_after_a_refused_write(lend: Callable[[], AbstractAsyncContextManager[Connection]]) -> None:
    """Check that what `lend` lends after a refused write is another connection."""
    async with lend() as connection:
        former = await process(connection)
    with pytest.raises(Unavailable):
        async with lend() as connection:
            await turn_and_write(connection)
    async with lend() as connection:
        assert await process(connection) != former


async def test_pool_asks_a_connection_again_before_it_lends_it(settings: Settings) -> None:
    async with Pool(settings, "test") as pool:
        async with pool.connection() as connection:
            former = await process(connection)
            await connection.execute(TURN_READ_ONLY)
            forget_answer(connection)
        async with pool.connection() as connection:
            assert await process(connection) != former


async def test_pool_drops_a_connection_on_which_a_write_was_refused(settings: Settings) -> None:
    async with Pool(settings, "test") as pool:
        await assert_dropped_after_a_refused_write(pool.connection)


async def test_pool_drops_the_other_connections_of_a_server_that_refused_a_write(settings: Settings) -> None:
    async with Pool(settings, "test", size=2) as pool:
        async with pool.connection() as connection, pool.connection() as other:
            former = await process(other)
            await connection.execute(TURN_READ_ONLY)
            refusing = await process(connection)
        with pytest.raises(Unavailable):
            async with pool.connection() as one, pool.connection() as two:
                await (one if await process(one) == refusing else two).execute(WRITE)
        async with pool.connection() as one, pool.connection() as two:
            assert not {await process(one), await process(two)} & {former, refusing}


async def test_checked_session_asks_again_before_each_use(settings: Settings) -> None:
    async with Session(settings, "test", checked=True) as session:
        async with session.statement() as connection:
            former = await process(connection)
            await connection.execute(TURN_READ_ONLY)
            forget_answer(connection)
        with pytest.raises(ReadOnlyServer):
            async with session.statement():
                pass
        async with session.statement() as connection:
            assert await process(connection) != former


async def test_session_drops_a_connection_on_which_a_write_was_refused(settings: Settings) -> None:
    async with Session(settings, "test") as session:
        await assert_dropped_after_a_refused_write(session.statement)
