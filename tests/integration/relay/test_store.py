"""The relay's SQL fits its tables, and its role has no more rights than it needs."""

import asyncpg
import pytest

from services.relay.store import SQL
from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Event, Pipeline, order_in


@pytest.fixture
async def as_relay(pipeline: Pipeline):  # type: ignore[no-untyped-def]
    connection = await asyncpg.connect(pipeline.url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("name", sorted(SQL))
async def test_every_query_fits_the_schema(as_relay: asyncpg.Connection, name: str) -> None:
    await as_relay.prepare(SQL[name])


@pytest.mark.parametrize(
    "forbidden",
    [
        "DELETE FROM orders.outbox",
        "UPDATE orders.outbox SET payload = ''",
        "UPDATE orders.outbox SET sequence = 7",
        "INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload) "
        "VALUES (gen_random_uuid(), gen_random_uuid(), 1, 'x', 'x')",
        "SELECT * FROM orders.orders",
    ],
)
async def test_the_relay_may_only_read_the_outbox_and_set_its_status(
    as_relay: asyncpg.Connection, forbidden: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_relay.execute(forbidden)


async def test_no_other_service_may_touch_the_relays_tables(migrated: Database) -> None:
    connection = await asyncpg.connect(migrated.as_role("order_service"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE relay.shards SET epoch = 0")
    finally:
        await connection.close()


async def test_a_sequence_is_used_once_in_an_order(pipeline: Pipeline) -> None:
    order_id = order_in(0)
    await Event(order_id, 1).insert(pipeline.connection)
    with pytest.raises(asyncpg.UniqueViolationError):
        await Event(order_id, 1).insert(pipeline.connection)


@pytest.mark.parametrize("shard", range(4))
async def test_an_order_stays_in_the_shard_of_its_last_byte(pipeline: Pipeline, shard: int) -> None:
    await Event(order_in(shard), 1).insert(pipeline.connection)
    assert await pipeline.connection.fetchval("SELECT shard FROM orders.outbox") == shard
