"""A relay whose database was made with more than four shards."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from deploy.consumer.events import digest
from tests.infrastructure.databases import Database
from tests.infrastructure.outbox_writers import assert_in_sequence
from tests.infrastructure.pipeline import Event, Pipeline, order_in, write
from tests.infrastructure.services import Client, migrate_service
from tests.infrastructure.waiting import eventually

SHARDS = 16


@pytest.fixture(scope="module")
def migrated(create_database: Callable[..., Database]) -> Database:
    """A new database with more shards, in place of the one of the other modules."""
    database = create_database()
    migrate_service("order", database, relay_shards=str(SHARDS))
    migrate_service("relay", database)
    return database


async def test_replicas_share_more_shards_and_publish_each_event_once_in_sequence(pipeline: Pipeline) -> None:
    orders = [order_in(shard, SHARDS) for shard in range(SHARDS) for _ in range(2)]
    events: list[Event] = []

    async def publish() -> None:
        new = [Event(order_id, 1 + len(events) // len(orders)) for order_id in orders]
        events.extend(new)
        await write(pipeline.connection, new)
        await pipeline.until_sent(len(events))

    async def held(**counts: int) -> None:
        query = "SELECT holder, count(*) FROM relay.shards WHERE holder IS NOT NULL GROUP BY holder"

        async def as_said() -> bool:
            return {row["holder"]: row["count"] for row in await pipeline.connection.fetch(query)} == counts

        await eventually(as_said, 30, f"shards held as {counts}")

    async with pipeline.relay(replica="a"):
        await held(a=SHARDS)
        await publish()
        async with pipeline.relay(replica="b"):
            await held(a=SHARDS // 2, b=SHARDS // 2)
            await publish()
        await held(a=SHARDS)
        await publish()
    async with pipeline.reader() as reader:
        records = await reader.to_the_end()
    assert_in_sequence(pipeline, records, events)
    positions = await pipeline.positions()
    assert positions.keys() == set(range(SHARDS))
    assert all(positions.values())


async def test_digests_name_the_number_of_shards_and_divide_the_events_by_it(
    pipeline: Pipeline, served: tuple[Client, Client]
) -> None:
    events = [Event(order_in(shard, SHARDS), 1, payload=b'{"n":%d}' % shard) for shard in range(1, SHARDS)]
    await write(pipeline.connection, events)
    await pipeline.until_sent(len(events))
    query = "SELECT occurred_at, date_trunc('minute', occurred_at) AS bucket, event_id, shard, sha256(payload) AS hash"
    rows = await pipeline.connection.fetch(f"{query} FROM orders.outbox")
    assert {row["shard"] for row in rows} == set(range(1, SHARDS))
    found = []
    for bucket in {row["bucket"] for row in rows}:
        answer = await served[0].get("/v1/digests", **minute(bucket))
        assert answer["shards"] == SHARDS
        assert [one["shard"] for one in answer["items"]] == list(range(SHARDS))
        for one in answer["items"]:
            own = [row for row in rows if (row["bucket"], row["shard"]) == (bucket, one["shard"])]
            assert (one["count"], one["hash"]) == digest((row["event_id"], row["hash"]) for row in own)
        found += [
            item["event_id"]
            for shard in range(SHARDS)
            for item in await served[0].all_items("/v1/events", shard=shard, bucket=bucket.isoformat())
        ]
    assert sorted(found) == sorted(str(event.event_id) for event in events)


def minute(bucket: datetime) -> dict[str, str]:
    return {"from": bucket.isoformat(), "to": (bucket + timedelta(minutes=1)).isoformat()}
