"""Connections of the relay that wait for work are kept, whatever the server does with idle ones."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.infrastructure.databases import Database
from tests.infrastructure.waiting import eventually
from tests.integration.relay.world import PATIENCE_SECONDS, Event, World, order_in, write

IDLE_MAX = "200ms"
# Shards that go out together use the group's connection, and leave their own alone.
IDLE_FOR_LONGER = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name LIKE 'relay shard%' AND state = 'idle' AND state_change < now() - interval '800 milliseconds'
"""


@pytest.fixture
def impatient(world: World, migrated: Database) -> Iterator[World]:
    """The world, whose server ends sessions that idle; but not the test's own, which was there before."""
    with psycopg.connect(migrated.url, autocommit=True) as db:
        name = sql.Identifier(db.info.dbname)
        db.execute(sql.SQL("ALTER DATABASE {} SET idle_session_timeout = {}").format(name, sql.Literal(IDLE_MAX)))
        yield world
        db.execute(sql.SQL("ALTER DATABASE {} RESET idle_session_timeout").format(name))


async def test_shards_in_a_group_stay_where_they_are(impatient: World) -> None:
    world = impatient
    epochs = "SELECT array_agg(epoch ORDER BY shard) FROM relay.shards"
    async with world.relay():
        await world.until_held()
        taken = await world.connection.fetchval(epochs)

        async def all_idle_for_longer() -> bool:
            return bool(await world.connection.fetchval(IDLE_FOR_LONGER) == 4)

        await eventually(all_idle_for_longer, PATIENCE_SECONDS, "idle connections that outlive the limit")
        await write(world.connection, [Event(order_in(shard), 1) for shard in range(4)])
        await world.until_sent(4)
        assert await world.connection.fetchval(epochs) == taken
