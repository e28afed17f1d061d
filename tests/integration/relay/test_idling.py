"""Idle connections of the relay stay open, even if the server ends idle sessions."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import PATIENCE_SECONDS, Event, Pipeline, order_in, write
from tests.infrastructure.waiting import eventually

IDLE_MAX = "200ms"
# Shards that publish together use the group's connection, and not their own.
IDLE_FOR_LONGER = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'relay shard%' AND state = 'idle'
        AND state_change < now() - interval '800 milliseconds'
"""


@pytest.fixture
def impatient(pipeline: Pipeline, migrated: Database) -> Iterator[Pipeline]:
    """A pipeline whose server ends idle sessions, except the test's own, which is older."""
    with psycopg.connect(migrated.url, autocommit=True) as db:
        name = sql.Identifier(db.info.dbname)
        db.execute(sql.SQL("ALTER DATABASE {} SET idle_session_timeout = {}").format(name, sql.Literal(IDLE_MAX)))
        yield pipeline
        db.execute(sql.SQL("ALTER DATABASE {} RESET idle_session_timeout").format(name))


async def test_shards_in_a_group_stay_where_they_are(impatient: Pipeline) -> None:
    pipeline = impatient
    epochs = "SELECT array_agg(epoch ORDER BY shard) FROM relay.shards"
    async with pipeline.relay():
        await pipeline.until_held()
        taken = await pipeline.connection.fetchval(epochs)

        async def all_idle_for_longer() -> bool:
            return bool(await pipeline.connection.fetchval(IDLE_FOR_LONGER) == 4)

        await eventually(all_idle_for_longer, PATIENCE_SECONDS, "idle connections that outlive the limit")
        await write(pipeline.connection, [Event(order_in(shard), 1) for shard in range(4)])
        await pipeline.until_sent(4)
        assert await pipeline.connection.fetchval(epochs) == taken
