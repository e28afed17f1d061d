"""Each test of the relay has an empty outbox, shards that were never published, and its own topic."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from shared.postgres.migrations import migrate
from tests.conftest import BROKER
from tests.infrastructure.databases import Database
from tests.infrastructure.own_broker import OwnBroker, ProxiedBroker, proxied_broker
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper

SERVICES = Path(__file__).parents[3] / "services"


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
    migrate(database.as_role("order_migrator"), "orders", SERVICES / "order" / "migrations")
    migrate(database.as_role("relay_migrator"), "relay", SERVICES / "relay" / "migrations")
    return database


@pytest.fixture
async def pipeline(migrated: Database, kafka_bootstrap: str, pytestconfig: pytest.Config) -> AsyncIterator[Pipeline]:
    connection = await asyncpg.connect(migrated.url)
    await connection.execute("""
        TRUNCATE orders.outbox RESTART IDENTITY;
        TRUNCATE relay.shards, relay.replicas, relay.operator_acts, relay.replays, relay.watermark, relay.topics;
        INSERT INTO relay.shards (shard) SELECT generate_series(0, 3);
        INSERT INTO relay.watermark DEFAULT VALUES;
    """)
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
