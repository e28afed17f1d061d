"""The reference consumer's process with its database: its probes, and what it prunes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import asyncpg
import pytest

from deploy.consumer import runtime
from deploy.consumer.__main__ import serve
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.stopping import Stop
from tests.infrastructure.databases import Database
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.consumer.platform import migrated

SECONDS = 5.0
WAITS_FOR_ME = "SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid"


@pytest.fixture
async def settings(platform_database: Database) -> ConsumerSettings:
    return (await migrated(platform_database)).model_copy(update={"port": free_port(), "pool_size": 1})


@pytest.fixture
async def db(settings: ConsumerSettings) -> AsyncIterator[asyncpg.Connection]:
    """Return a session besides the process's."""
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def serving(settings: ConsumerSettings) -> AsyncIterator[None]:
    stop = Stop()
    task = asyncio.create_task(serve(settings, stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 2 * SECONDS)


async def test_work_that_uses_all_connections_does_not_make_the_consumer_unready(
    settings: ConsumerSettings, db: asyncpg.Connection
) -> None:
    await db.execute("INSERT INTO platform.duties VALUES ('gaps', 'another process', now())")
    async with serving(settings), aiohttp.ClientSession() as client, db.transaction():
        await db.execute("SELECT FROM platform.duties FOR UPDATE")
        await eventually(lambda: db.fetchval(WAITS_FOR_ME), SECONDS, "work that waits for a lock")
        async with client.get(f"http://127.0.0.1:{settings.port}/readyz") as response:
            checks = (await response.json())["checks"]
        assert {checks["database"], checks["clock"]} == {"ok"}
        await db.execute("DELETE FROM platform.duties")


async def test_nothing_is_pruned_while_the_clocks_disagree(
    settings: ConsumerSettings, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "SKEW_MAX_SECONDS", -1.0)
    await db.execute("INSERT INTO platform.buckets VALUES ('2020-01-01', 0, 'OPEN', '[]')")
    before = failed_prunings()

    async def kept() -> int:
        return int(await db.fetchval("SELECT count(*) FROM platform.buckets"))

    async def tried() -> bool:
        return failed_prunings() > before or not await kept()

    async with serving(settings):
        await eventually(tried, SECONDS, "a pass of the pruning")
    assert await kept() == 1


def failed_prunings() -> float:
    labels = {"loop": "prune", "cause": "transient"}
    return runtime.REGISTRY.get_sample_value("background_failed_rounds_total", labels) or 0.0
