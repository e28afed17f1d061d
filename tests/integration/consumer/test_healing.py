"""The reference consumer's connections follow the server that takes writes; errors say whether to try again."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from deploy.consumer.__main__ import serve
from deploy.consumer.runtime import Pool, ReadOnlyServer, Unavailable
from deploy.consumer.stopping import Stop
from tests.infrastructure.databases import Database
from tests.infrastructure.waiting import free_port
from tests.integration.consumer.platform import migrated


@pytest.fixture
async def pool(platform_database: Database) -> AsyncIterator[Pool]:
    async with Pool(await migrated(platform_database), size=1) as pool:
        yield pool


async def test_connection_to_a_server_that_became_read_only_is_not_lent(pool: Pool) -> None:
    async with pool.connection() as db:
        await db.execute("SET default_transaction_read_only = on")
    with pytest.raises(ReadOnlyServer):
        async with pool.connection():
            raise AssertionError
    async with pool.connection() as db:
        assert await db.fetchval("SHOW transaction_read_only") == "off", "another connection"


async def test_one_connection_to_such_a_server_is_enough_to_drop_the_others(platform_database: Database) -> None:
    async with Pool(await migrated(platform_database), size=2) as pool:
        async with pool.connection() as one, pool.connection() as two:
            for db in (one, two):
                await db.execute("SET default_transaction_read_only = on")
        with pytest.raises(ReadOnlyServer):
            async with pool.connection():
                raise AssertionError
        async with pool.connection() as one, pool.connection() as two:
            assert await one.fetchval("SELECT 1") == await two.fetchval("SELECT 1")


async def test_connection_of_a_body_that_failed_is_not_lent_again(pool: Pool) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with pool.connection() as db:
            await db.execute("SET application_name = 'in doubt'; COMMIT; SELECT 1 / 0")
    async with pool.connection() as db:
        assert await db.fetchval("SHOW application_name") != "in doubt"


async def test_no_connection_is_opened_to_a_server_that_takes_no_writes(
    pool: Pool, platform_database: Database
) -> None:
    owner = await asyncpg.connect(platform_database.url)
    name = await owner.fetchval("SELECT current_database()")
    try:
        await owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with pytest.raises(Unavailable, match="takes no writes"):
            async with pool.connection():
                raise AssertionError
    finally:
        await owner.execute("SET default_transaction_read_only = off")
        await owner.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await owner.close()
    async with pool.connection() as db:
        assert await db.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("query", ["SELECT FROM platform.nowhere", "SELECT pg_terminate_backend(pg_backend_pid())"])
async def test_errors_that_an_operator_repairs_or_that_pass_are_transient(pool: Pool, query: str) -> None:
    for _ in range(2):
        with pytest.raises(Unavailable):
            async with pool.connection() as db:
                await db.execute(query)
    async with pool.connection() as db:
        assert await db.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("query", ["SELECT 1 / 0", "SELEC"])
async def test_mistake_of_our_sql_is_a_bug(pool: Pool, query: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        async with pool.connection() as db:
            await db.execute(query)


async def test_stop_does_not_wait_for_a_comparison(pool: Pool, platform_database: Database) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        while await reader.read(1000):
            pass
        writer.close()
        closed.set()

    async with pool.connection() as db:
        await db.execute(
            "INSERT INTO platform.watermarks VALUES ('orders.v1', now(), '{}', '[]', 0, now(), '2026-01-01')"
        )
    relay = await asyncio.start_server(hang, "127.0.0.1", 0)
    changes = {
        "port": free_port(),
        "relay_url": f"http://127.0.0.1:{relay.sockets[0].getsockname()[1]}",
        "relay_timeout_seconds": 60.0,
    }
    stop, settings = Stop(), (await migrated(platform_database)).model_copy(update=changes)
    consuming = asyncio.create_task(serve(settings, stop))
    await asyncio.wait_for(asked.wait(), 20)
    stop.set()
    await asyncio.wait_for(consuming, 6)
    await closed.wait()
    async with pool.connection() as db:
        assert await db.fetchval("SELECT count(*) FROM platform.duties") == 0, "another process can lead immediately"
    relay.close()
    await relay.wait_closed()
