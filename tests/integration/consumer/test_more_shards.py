"""A consumer of a relay that has more than four shards."""

import random
from collections.abc import Callable

import pytest

from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import Platform, an_order, mark_sent, publish

SHARDS = 16


@pytest.fixture(scope="module")
def migrated(create_database: Callable[..., Database]) -> Database:
    """A new database with more shards, in place of the one of the other modules."""
    database = create_database()
    migrate_service("order", database, relay_shards=str(SHARDS))
    migrate_service("relay", database)
    return database


async def test_consumer_learns_the_number_of_shards_and_proves_what_each_has(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    events = [event for _ in range(60) for event in an_order(source)]
    await publish(pipeline, events)
    lost, late = (an_order(source, ("paid",))[0] for _ in range(2))
    await mark_sent(pipeline, lost)
    consuming.start()
    await consuming.until_equal([*events, lost])
    body = await consuming.until_proven()
    assert body["unproven"] == []
    (repaired,) = body["repaired"]
    assert (repaired["shard"], len(repaired["findings"])) == (lost.order_id.bytes[15] % SHARDS, 1)
    compared = "SELECT shard, state, max(compared_at) AS at FROM platform.buckets GROUP BY shard, state"
    before = {row["shard"]: row["at"] for row in await consuming.connection.fetch(compared)}
    assert before.keys() == set(range(SHARDS))
    await publish(pipeline, [late])
    await consuming.until_equal([*events, lost, late])

    async def again() -> bool:
        rows = await consuming.connection.fetch(compared)
        own = [row["at"] for row in rows if row["shard"] == late.order_id.bytes[15] % SHARDS]
        return {row["state"] for row in rows} == {"EQUAL"} and own[0] > before[late.order_id.bytes[15] % SHARDS]

    await eventually(again, 40, "another comparison of the shard of the late event")
    assert (await consuming.until_proven())["unproven"] == []
