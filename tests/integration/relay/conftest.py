"""Each test of the relay has an empty outbox, shards that were never published, and its own topic."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import aiohttp
import asyncpg
import pytest

from services.relay.process import serve
from shared.process.stopping import Stop
from tests.conftest import BROKER
from tests.contract.checking import CheckedClient
from tests.infrastructure.databases import Database
from tests.infrastructure.own_broker import OwnBroker, ProxiedBroker, proxied_broker
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import Client, migrate_service
from tests.infrastructure.waiting import eventually, free_port, listens


@pytest.fixture(scope="session")
def lavish(reaper: Reaper) -> Iterator[OwnBroker]:
    """A real broker that creates every requested topic, with one partition."""
    broker = OwnBroker(reaper, instead={"auto.create.topics.enable": "true", "num.partitions": "1"})
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def proxied(reaper: Reaper) -> Iterator[ProxiedBroker]:
    """A broker behind a proxy for one test."""
    with proxied_broker(reaper) as proxied:
        yield proxied


@pytest.fixture(scope="module")
def migrated(database: Database) -> Database:
    """The database with the tables of the order service and the relay, each created with its own role."""
    migrate_service("order", database)
    migrate_service("relay", database)
    return database


async def emptied(database: Database) -> asyncpg.Connection:
    """Empty the tables of the outbox and the relay; return the connection."""
    connection: asyncpg.Connection = await asyncpg.connect(database.url)
    await connection.execute("""
        TRUNCATE orders.outbox RESTART IDENTITY;
        TRUNCATE relay.shards, relay.replicas, relay.operator_acts, relay.replays, relay.watermark, relay.topics;
        INSERT INTO relay.shards (shard) SELECT generate_series(0, shards - 1) FROM orders.relay_shards;
        INSERT INTO relay.watermark DEFAULT VALUES;
        -- Else the first relay rotates the outbox, and a later test's ids, from 1 on, are in a published partition.
        UPDATE orders.outbox_partitions SET opened_at = clock_timestamp() WHERE opened_at = '-infinity';
    """)
    return connection


@pytest.fixture
async def pipeline(migrated: Database, kafka_bootstrap: str, pytestconfig: pytest.Config) -> AsyncIterator[Pipeline]:
    connection = await emptied(migrated)
    try:
        yield Pipeline(
            url=migrated.as_role("relay_service"),
            kafka=kafka_bootstrap,
            topic=f"orders.test-{secrets.token_hex(6)}",
            connection=connection,
            real_broker=pytestconfig.stash[BROKER].real,
        )
    finally:
        await connection.close()


@pytest.fixture
def real_pipeline(pipeline: Pipeline) -> Pipeline:
    """The pipeline with a real broker, for tests of fences, aborts and refusals."""
    if not pipeline.real_broker:
        pytest.skip("the embedded broker neither fences nor aborts nor refuses")
    return pipeline


@pytest.fixture
async def writer(migrated: Database) -> AsyncIterator[asyncpg.Connection]:
    """A separate connection for a test's own transactions."""
    connection = await asyncpg.connect(migrated.url)
    yield connection
    await connection.close()


@pytest.fixture
async def served(pipeline: Pipeline) -> AsyncIterator[tuple[Client, Client]]:
    """Serve a relay with both listeners; yield a client of the public one, and a checking client of the operators'."""
    port, admin_port, stop = free_port(), free_port(), Stop()
    running = asyncio.create_task(serve(pipeline.settings(port=port, admin_port=admin_port), stop))

    async def accept() -> bool:
        if running.done():
            running.result()
        return listens("127.0.0.1", port) and listens("127.0.0.1", admin_port)

    await eventually(accept, 10, "both listeners")
    urls = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    async with aiohttp.ClientSession(urls[0]) as public, aiohttp.ClientSession(urls[1]) as admin:
        document = await Client(admin, urls[1]).get("/openapi.json")
        yield Client(public, urls[0]), CheckedClient(admin, urls[1], document)
    stop.set()
    await running
