"""Each test of the relay has an empty outbox, shards that were never published, and its own topic."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from shared.migrations import migrate
from tests.conftest import BROKER
from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.integration.relay.own_broker import OwnBroker
from tests.integration.relay.world import World

SERVICES = Path(__file__).parents[3] / "services"


@pytest.fixture(scope="session")
def lavish(reaper: Reaper) -> Iterator[OwnBroker]:
    """A real broker that creates every topic it is asked for, with one partition."""
    broker = OwnBroker(reaper, instead={"auto.create.topics.enable": "true", "num.partitions": "1"})
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def migrated(database: Database) -> Database:
    """The database with the tables of the order service and the relay, each made by its own role."""
    migrate(database.as_role("order_service"), "orders", SERVICES / "order" / "migrations")
    migrate(database.as_role("relay_service"), "relay", SERVICES / "relay" / "migrations")
    return database


@pytest.fixture
async def world(migrated: Database, kafka_bootstrap: str, pytestconfig: pytest.Config) -> AsyncIterator[World]:
    connection = await asyncpg.connect(migrated.url)
    await connection.execute("""
        TRUNCATE orders.outbox RESTART IDENTITY;
        TRUNCATE relay.shards, relay.replicas, relay.operator_acts, relay.replays, relay.watermark, relay.topics;
        INSERT INTO relay.shards (shard) SELECT generate_series(0, 3);
        INSERT INTO relay.watermark DEFAULT VALUES;
    """)
    try:
        yield World(
            url=migrated.as_role("relay_service"),
            kafka=kafka_bootstrap,
            topic=f"orders.test-{secrets.token_hex(6)}",
            connection=connection,
            real_broker=pytestconfig.stash[BROKER].real,
        )
    finally:
        await connection.close()


@pytest.fixture
def real_world(world: World) -> World:
    """The world of a test of what only a real broker does: fencing, aborting, refusing."""
    if not world.real_broker:
        pytest.skip("the embedded broker neither fences nor aborts nor refuses")
    return world
