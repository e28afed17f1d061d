"""A consumer's tables from the time of one topic are upgraded in place, and its records keep their topic."""

from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from deploy.consumer import store
from deploy.consumer.runtime import Unavailable
from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.integration.consumer.platform import migrated

MIGRATIONS = Path(store.__file__).with_name("migrations")
EVENT = """
    INSERT INTO platform.inbox (event_id, order_id, sequence, type, occurred_at, shard, payload, sha256, state, source)
    VALUES ($1, $2, 1, 'order.paid.v1', '2026-01-05T09:30:00Z', 0, '', '', 'APPLIED', 'topic')
"""


async def before_topics(database: Database, topic: str) -> asyncpg.Connection:
    """Make the tables as they were, with a watermark, an event and a minute of this topic."""
    db: asyncpg.Connection = await asyncpg.connect(database.as_role("platform_migrator"))
    await db.execute("CREATE TABLE platform.migrations (name text PRIMARY KEY)")
    for file in sorted(MIGRATIONS.glob("000[1-4]*.sql")):
        await db.execute(file.read_text())
        await db.execute("INSERT INTO platform.migrations VALUES ($1)", file.stem)
    await db.execute("INSERT INTO platform.watermarks VALUES ($1, now(), '{}', '[]', 0)", topic)
    await db.execute("INSERT INTO platform.offsets VALUES ('a.v0', 0, 1), ($1, 0, 5)", topic)
    await db.execute(EVENT, uuid7(), uuid7())
    await db.execute("INSERT INTO platform.buckets VALUES ('2026-01-05T09:30:00Z', 0, 'EQUAL', '[]')")
    return db


async def test_what_is_stored_belongs_to_the_topic_that_was_read(create_database: Callable[..., Database]) -> None:
    database = create_database()
    db = await before_topics(database, "orders.v7")
    await migrated(database)
    # The former version goes on reading until it is replaced.
    await db.execute(EVENT, uuid7(), uuid7())
    for table, count in {"inbox": 2, "buckets": 1}.items():
        rows = await db.fetch(f"SELECT topic FROM platform.{table}")
        assert [row["topic"] for row in rows] == ["orders.v7"] * count
    await db.close()


async def test_migration_gives_up_while_a_report_locks_a_table(create_database: Callable[..., Database]) -> None:
    database = create_database()
    db = await before_topics(database, "orders.v1")
    async with db.transaction():
        await db.execute("SELECT count(*) FROM platform.inbox")
        with pytest.raises(Unavailable):
            await migrated(database)
    assert await db.fetchval("SELECT count(*) FROM platform.migrations") == 4
    await migrated(database)
    await db.close()
