"""The API of published events: digests of each minute, an order's events, the events of a minute."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from services.relay import store
from services.relay.process import serve
from shared.ids import uuid7
from shared.process.stopping import Stop
from tests.contract.checking import CheckedClient
from tests.infrastructure.pipeline import Event, Pipeline, order_in
from tests.infrastructure.services import Client
from tests.infrastructure.waiting import eventually, free_port, listens

NOW = datetime.now(UTC)
MINUTE = NOW.replace(second=0, microsecond=0) - timedelta(minutes=30)
EMPTY = hashlib.sha256().hexdigest()
SENT = "UPDATE orders.outbox SET status = 'SENT', sent_at = now(), parked_at = NULL, parked_reason = NULL"


@pytest.fixture
async def relay(pipeline: Pipeline) -> AsyncIterator[Client]:
    """Serve a relay without a broker, which publishes nothing; yield a checking client of it."""
    port, stop = free_port(), Stop()
    settings = pipeline.settings(port=port, kafka_bootstrap_servers="127.0.0.1:1", watermark_interval_seconds=60)
    running = asyncio.create_task(serve(settings, stop))

    async def accepts() -> bool:
        if running.done():
            running.result()
        return listens("127.0.0.1", port)

    await eventually(accepts, 10, "the listener")
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(url) as session:
        yield CheckedClient(session, url, await Client(session, url).get("/openapi.json"))
    stop.set()
    await running


async def write(pipeline: Pipeline, events: list[Event], at: datetime = MINUTE, status: str = "SENT") -> None:
    """Write events with one timestamp and a status."""
    for event in events:
        outbox_id = await event.insert(pipeline.connection)
        await pipeline.connection.execute(
            "UPDATE orders.outbox SET occurred_at = $2 WHERE outbox_id = $1", outbox_id, at
        )
        change = {
            "SENT": SENT,
            "PENDING": "UPDATE orders.outbox SET status = status",
            "SKIPPED": "UPDATE orders.outbox SET status = 'SKIPPED'",
            "PARKED": "UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = 'x'",
        }[status]
        await pipeline.connection.execute(f"{change} WHERE outbox_id = $1", outbox_id)


async def watermark_at(pipeline: Pipeline, timestamp: datetime) -> None:
    await pipeline.connection.execute("UPDATE relay.watermark SET up_to = $1", timestamp)


def rfc3339(timestamp: datetime) -> str:
    return timestamp.isoformat().replace("+00:00", "Z")


def digest_of(events: list[Event]) -> str:
    """Compute the hash as docs/events.md describes."""
    digest = hashlib.sha256()
    for event in sorted(events, key=lambda event: event.event_id.bytes):
        digest.update(event.event_id.bytes + hashlib.sha256(event.payload).digest())
    return digest.hexdigest()


async def digests(relay: Client, minutes: int = 1, **more: Any) -> list[dict[str, Any]]:
    found = await relay.get(
        "/v1/digests", **{"from": rfc3339(MINUTE), "to": rfc3339(MINUTE + timedelta(minutes=minutes))}, **more
    )
    items: list[dict[str, Any]] = found["items"]
    return items


async def test_digest_equals_the_one_a_consumer_computes(pipeline: Pipeline, relay: Client) -> None:
    events = [Event(order_in(shard), 1, payload=f'{{"n":{n}}}'.encode()) for n in range(5) for shard in (0, 2)]
    await write(pipeline, events)
    await write(pipeline, [Event(order_in(0), 1)], MINUTE - timedelta(microseconds=1))
    await write(pipeline, [Event(order_in(0), 1)], MINUTE + timedelta(minutes=1))
    await watermark_at(pipeline, NOW)
    found = await digests(relay)
    assert [(one["bucket"], one["shard"], one["count"], one["closed"]) for one in found] == [
        (rfc3339(MINUTE), shard, 5 if shard in (0, 2) else 0, True) for shard in range(4)
    ]
    for one in found:
        assert one["hash"] == digest_of([event for event in events if event.order_id.int & 3 == one["shard"]])
    assert found[1]["hash"] == EMPTY
    assert await digests(relay, shard=2) == [found[2]]


async def test_digest_counts_sent_events_and_a_parked_one_keeps_the_bucket_open(
    pipeline: Pipeline, relay: Client
) -> None:
    events = [Event(order_in(1), 1)]
    await write(pipeline, events)
    await write(pipeline, [Event(order_in(1), 1)], status="SKIPPED")
    await write(pipeline, [Event(order_in(3), 1)], status="PARKED")
    await watermark_at(pipeline, NOW)
    found = await digests(relay)
    assert [one["closed"] for one in found] == [True, True, True, False]
    assert (found[1]["count"], found[1]["hash"]) == (1, digest_of(events))
    assert found[3]["count"] == 0


async def test_waiting_event_before_the_watermark_keeps_its_bucket_open(pipeline: Pipeline, relay: Client) -> None:
    """The case after an operator's retry, or after the clock was set back."""
    await write(pipeline, [Event(order_in(0), 1)])
    await write(pipeline, [Event(order_in(2), 1)], status="PENDING")
    await watermark_at(pipeline, NOW)
    assert [one["closed"] for one in await digests(relay)] == [True, True, False, True]
    await pipeline.connection.execute(f"{SENT} WHERE status = 'PENDING'")
    found = await digests(relay)
    assert all(one["closed"] for one in found)
    assert found[2]["count"] == 1


async def test_a_bucket_is_closed_once_the_watermark_is_at_its_end(pipeline: Pipeline, relay: Client) -> None:
    await watermark_at(pipeline, MINUTE + timedelta(minutes=1) - timedelta(microseconds=1))
    assert not any(one["closed"] for one in await digests(relay))
    await watermark_at(pipeline, MINUTE + timedelta(minutes=1))
    assert all(one["closed"] for one in await digests(relay))
    await pipeline.connection.execute("UPDATE relay.watermark SET up_to = NULL")
    assert not any(one["closed"] for one in await digests(relay))


async def test_digests_without_an_end_stop_at_the_watermark_or_the_limit(pipeline: Pipeline, relay: Client) -> None:
    await watermark_at(pipeline, NOW)
    page = await relay.get("/v1/digests", **{"from": rfc3339(MINUTE)}, shard=0)
    assert (len(page["items"]), page["next_from"], page["up_to"]) == (30, None, rfc3339(NOW))
    start = MINUTE - timedelta(hours=1)
    page = await relay.get("/v1/digests", **{"from": rfc3339(start)}, shard=0)
    assert len(page["items"]) == 60
    assert page["next_from"] == rfc3339(start + timedelta(hours=1))
    page = await relay.get("/v1/digests", **{"from": rfc3339(MINUTE), "to": "2300-01-01T00:00:00Z"}, shard=0)
    last = datetime.fromisoformat(page["items"][-1]["bucket"])
    assert datetime.now(UTC) - last < timedelta(seconds=90), "the minute that has not ended"
    assert (page["items"][-1]["closed"], page["next_from"]) == (False, None)


async def removed_up_to(pipeline: Pipeline, timestamp: datetime) -> None:
    """Record a dropped partition of the outbox that was published at that time."""
    await pipeline.connection.execute(
        """
        INSERT INTO orders.outbox_partitions (partition, opened_at, closed_at, published_at, dropped_at)
        VALUES (1000000, $1, $1, $1, now())
        """,
        timestamp,
    )


@pytest.fixture
async def _forgotten_removal(pipeline: Pipeline) -> AsyncIterator[None]:
    yield
    await pipeline.connection.execute("DELETE FROM orders.outbox_partitions WHERE partition = 1000000")


@pytest.mark.usefixtures("_forgotten_removal")
async def test_removed_bucket_is_refused_and_the_oldest_one_named(pipeline: Pipeline, relay: Client) -> None:
    await removed_up_to(pipeline, MINUTE + timedelta(seconds=7))
    oldest = rfc3339(MINUTE + timedelta(minutes=1))
    for path, query in (
        ("/v1/digests", {"from": rfc3339(MINUTE)}),
        ("/v1/events", {"shard": "0", "bucket": rfc3339(MINUTE)}),
    ):
        gone = await relay.call("GET", path, params=query)
        assert (gone.status, gone.problem, gone.body["oldest"]) == (410, "bucket-gone", oldest)
    assert (await relay.call("GET", "/v1/digests", params={"from": oldest})).status == 200


async def test_events_of_an_order_are_returned_as_published(pipeline: Pipeline, relay: Client) -> None:
    order = uuid7()
    events = [Event(order, sequence, payload=b'{"status": "PAID", "n": 1.50}') for sequence in (1, 2, 3)]
    await write(pipeline, events)
    await write(pipeline, [Event(order, 4)], status="PARKED")
    await write(pipeline, [Event(order, 5)], status="PENDING")
    await write(pipeline, [Event(uuid7(), 1)])
    items = (await relay.get("/v1/events", order_id=order))["items"]
    assert [(one["sequence"], one["status"]) for one in items] == [
        *((sequence, "SENT") for sequence in (1, 2, 3)),
        (4, "PARKED"),
        (5, "PENDING"),
    ]
    first = items[0]
    assert (first["event_id"], first["order_id"], first["type"]) == (
        str(events[0].event_id),
        str(order),
        "order.paid.v1",
    )
    assert (first["occurred_at"], first["shard"]) == (rfc3339(MINUTE), order.int & 3)
    assert base64.b64decode(first["data_base64"]) == events[0].payload
    assert first["data"] == json.loads(events[0].payload)
    assert first["sha256"] == hashlib.sha256(events[0].payload).hexdigest()
    for unpublished in items[3:]:
        assert (unpublished.get("data"), unpublished.get("data_base64"), unpublished["sha256"]) == (None, None, None)


async def test_a_gap_is_fetched_by_sequence_and_a_long_order_page_by_page(pipeline: Pipeline, relay: Client) -> None:
    order = uuid7()
    await write(pipeline, [Event(order, sequence) for sequence in range(1, 8)])
    gap = await relay.get("/v1/events", order_id=order, from_sequence=3, to_sequence=4)
    assert ([one["sequence"] for one in gap["items"]], gap["next_cursor"]) == ([3, 4], None)
    pages = await relay.all_items("/v1/events", order_id=order, limit=3, from_sequence=2)
    assert [one["sequence"] for one in pages] == [2, 3, 4, 5, 6, 7]
    assert await relay.get("/v1/events", order_id=uuid7()) == {"items": [], "next_cursor": None}


async def test_large_events_are_returned_in_pages_of_bounded_size(pipeline: Pipeline, relay: Client) -> None:
    order = uuid7()
    await write(pipeline, [Event(order, sequence, payload=b"x" * 700_000) for sequence in range(1, 6)])
    page = await relay.get("/v1/events", order_id=order)
    assert len(page["items"]) == 2
    assert page["items"][0]["data"] is None, "it isn't JSON"
    assert [one["sequence"] for one in await relay.all_items("/v1/events", order_id=order)] == [1, 2, 3, 4, 5]


async def test_the_events_of_a_bucket_are_listed_without_their_data(pipeline: Pipeline, relay: Client) -> None:
    events = [Event(order_in(2), 1) for _ in range(7)]
    await write(pipeline, events)
    await write(pipeline, [Event(order_in(1), 1)])
    await write(pipeline, [Event(order_in(2), 1)], MINUTE + timedelta(minutes=1))
    items = await relay.all_items("/v1/events", shard=2, bucket=rfc3339(MINUTE), limit=3)
    assert [UUID(one["event_id"]) for one in items] == sorted(event.event_id for event in events)
    assert all("data" not in one and one["sha256"] for one in items)


async def test_a_minute_is_found_by_the_summary_of_its_pages_and_not_by_reading_all_events(pipeline: Pipeline) -> None:
    await pipeline.connection.execute("""
        INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload, occurred_at, status, sent_at)
        SELECT gen_random_uuid(), gen_random_uuid(), 1, 'order.paid.v1', decode(repeat('ab', 500), 'hex'),
               now() - interval '5 hours' + n * interval '1 second', 'SENT', now()
        FROM generate_series(1, 15000) AS n
    """)
    await pipeline.connection.execute("VACUUM ANALYZE orders.outbox")
    rows = await pipeline.connection.fetch(
        "EXPLAIN (ANALYZE, FORMAT TEXT) " + store.SQL["digest"].replace("$3::smallint", "NULL::smallint"),
        NOW - timedelta(hours=2),
        NOW - timedelta(hours=2) + timedelta(minutes=1),
    )
    plan = "\n".join(row[0] for row in rows)
    assert "occurred" in plan.split("Bitmap Index Scan on ")[1].splitlines()[0], plan
    removed = re.findall(r"Rows Removed by (?:Index Recheck|Filter): (\d+)", plan)
    assert sum(map(int, removed)) < 2000, plan


async def test_minute_with_a_rotation_has_a_complete_digest(pipeline: Pipeline, relay: Client) -> None:
    events = [Event(order_in(1), 1) for _ in range(4)]
    await write(pipeline, events[:2])
    for _ in range(3):
        await pipeline.connection.execute("SELECT orders.rotate_outbox(0)")
    await write(pipeline, events[2:])
    partitions = "SELECT count(DISTINCT outbox_id >> 40) FROM orders.outbox"
    assert await pipeline.connection.fetchval(partitions) == 2
    (found,) = await digests(relay, shard=1)
    assert (found["count"], found["hash"]) == (4, digest_of(events))
    order = uuid7()
    await write(pipeline, [Event(order, 1)])
    for _ in range(3):
        await pipeline.connection.execute("SELECT orders.rotate_outbox(0)")
    await write(pipeline, [Event(order, 2)])
    assert [one["sequence"] for one in (await relay.get("/v1/events", order_id=order))["items"]] == [1, 2]


MINUTE_TEXT, ORDER = "2026-01-05T09:30:00Z", "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c12"


@pytest.mark.parametrize(
    ("path", "query", "pointer"),
    [
        ("digests", {}, "/query/from"),
        ("digests", {"from": "yesterday"}, "/query/from"),
        ("digests", {"from": "0"}, "/query/from"),
        ("digests", {"from": "1767605400"}, "/query/from"),
        ("digests", {"from": "20260105T093000Z"}, "/query/from"),
        ("digests", {"from": MINUTE_TEXT, "shard": "0_1"}, "/query/shard"),
        ("events", {"order_id": f"urn:uuid:{ORDER}"}, "/query/order_id"),
        ("events", {"order_id": ORDER.replace("-", "")}, "/query/order_id"),
        ("events", {"order_id": ORDER, "from_sequence": "+1"}, "/query/from_sequence"),
        ("digests", {"from": "2026-01-05T09:30:00"}, "/query/from"),
        ("digests", {"from": "2026-01-05T09:30:01Z"}, "/query/from"),
        ("digests", {"from": "0001-01-01T00:00:00Z"}, "/query/from"),
        ("digests", {"from": MINUTE_TEXT, "to": "2026-01-05T09:30:00.5Z"}, "/query/to"),
        ("digests", {"from": MINUTE_TEXT, "to": MINUTE_TEXT}, "/query"),
        ("digests", {"from": MINUTE_TEXT, "shard": "4"}, "/query/shard"),
        ("digests", {"from": MINUTE_TEXT, "shard": "one"}, "/query/shard"),
        ("digests", {"from": MINUTE_TEXT, "minutes": "1"}, "/query/minutes"),
        ("events", {}, "/query"),
        ("events", {"order_id": "x"}, "/query/order_id"),
        ("events", {"shard": "1"}, "/query"),
        ("events", {"bucket": MINUTE_TEXT}, "/query"),
        ("events", {"shard": "-1", "bucket": MINUTE_TEXT}, "/query/shard"),
        ("events", {"shard": "1", "bucket": "2026-01-05T09:30:30Z"}, "/query/bucket"),
        ("events", {"order_id": ORDER, "shard": "1"}, "/query"),
        ("events", {"order_id": ORDER, "shard": "1", "bucket": MINUTE_TEXT}, "/query"),
        ("events", {"shard": "1", "bucket": MINUTE_TEXT, "from_sequence": "1"}, "/query"),
        ("events", {"order_id": ORDER, "from_sequence": "0"}, "/query/from_sequence"),
        ("events", {"order_id": ORDER, "to_sequence": str(2**63)}, "/query/to_sequence"),
        ("events", {"order_id": ORDER, "from_sequence": "3", "to_sequence": "2"}, "/query"),
        ("events", {"order_id": ORDER, "limit": "0"}, "/query/limit"),
        ("events", {"order_id": ORDER, "cursor": "zz"}, "/query/cursor"),
        ("events", {"shard": "1", "bucket": MINUTE_TEXT, "cursor": "5b315d"}, "/query/cursor"),
    ],
)
async def test_a_wrong_parameter_is_a_problem_that_names_it(
    relay: Client, path: str, query: dict[str, str], pointer: str
) -> None:
    answer = await relay.call("GET", f"/v1/{path}", params=query)
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert answer.body.get("errors", [{}])[0]["pointer"] == pointer


async def test_largest_sequence_is_accepted(relay: Client) -> None:
    cursor = json.dumps([2**63 - 1]).encode().hex()
    answer = await relay.call("GET", "/v1/events", params={"order_id": ORDER, "cursor": cursor})
    assert (answer.status, answer.body) == (200, {"items": [], "next_cursor": None})
