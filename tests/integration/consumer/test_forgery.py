"""A record that looks like the relay's but is not in its history is named by the reference consumer, and undone."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from deploy.consumer.__main__ import MEASURE_SECONDS
from tests.infrastructure.pipeline import Pipeline, producing
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.forgery import Forged, announce, announcing, forged, named, send, sent_in_transaction
from tests.integration.consumer.platform import Platform, an_order, publish
from tests.integration.consumer.test_dead_letters import retried

SOON, FAR = timedelta(minutes=8), timedelta(days=30_000)
FORGERIES: dict[str, Any] = {
    "next of its order": {},
    "far beyond its order": {"sequence": 2**62},
    "in a minute": {"occurred_at": SOON},
    "in a century": {"occurred_at": FAR},
    "long before": {"occurred_at": -FAR},
    "in the first year": {"occurred_at": datetime(2, 1, 1, tzinfo=UTC)},
    "in the last year": {"occurred_at": datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)},
    "of an unknown order": {"order_id": UUID("019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c12"), "sequence": 1},
    "of an unknown type": {"name": "shipped"},
    "in another partition": {"partition": 3},
}


@pytest.mark.parametrize("first", [False, True], ids=["to a running consumer", "before it starts"])
async def test_forged_event_is_named_and_its_order_is_as_before(
    consuming: Platform, pipeline: Pipeline, source: random.Random, *, first: bool
) -> None:
    orders = {name: an_order(source, ("placed", "paid")) for name in FORGERIES}
    events = [event for order in orders.values() for event in order]
    await publish(pipeline, events)
    await pipeline.until_sent(len(events))
    records = []
    for name, changes in FORGERIES.items():
        record = forged(orders[name][-1])
        values = dict(changes)
        if isinstance(values.get("occurred_at"), timedelta):
            values["occurred_at"] += datetime.now(UTC)
        if "order_id" in values:
            values["payload"] = record.payload.replace(str(record.order_id).encode(), str(values["order_id"]).encode())
        records.append(replace(record, **values))
    if first:
        await send(pipeline, *records)
    # A forged event of the first year would have a new consumer compare all minutes that it keeps.
    consumer = consuming.start(CONSUMER_KEEP_HOURS="1")
    if not first:
        await consuming.until_equal(events)
        await consuming.until_proven()
        await send(pipeline, *records)
    found = await named(consumer, *records)
    await consuming.until_equal(events)
    assert all(one["reason"] and one["partition"] is not None for one in found)
    body = await consuming.until_proven()
    assert (body["unproven"], body["waiting_orders"], body["forged_count"]) == ([], 0, len(records))

    async def measured() -> bool:
        return bool(await consumer.metric("consumer_forged_events") == len(records))

    await eventually(measured, 3 * MEASURE_SECONDS, "the measured number of forged events")
    later = an_order(source, ("paid",))
    await publish(pipeline, later)
    await consuming.until_equal([*events, *later])


async def test_true_event_wins_over_a_forged_one_that_came_before_it(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    order, other, copied = (an_order(source, ("placed", "paid", "refunded")) for _ in range(3))
    published = [order[0], other[0], copied[0]]
    await publish(pipeline, published)
    consumer = consuming.start()
    await consuming.until_equal(published)
    # Of the true id and value, but at another sequence; as if the record had been read in another partition first.
    moved = Forged(copied[1].event_id, copied[1].order_id, 2, "other", copied[1].payload, datetime.now(UTC))
    records = [forged(order[0]), forged(other[0], event_id=other[1].event_id), moved]
    await send(pipeline, *records)
    await eventually(lambda: consumer.reached("consumer_events_total", 6), 20, "the forged events")
    for one in (order, other, copied):
        await publish(pipeline, one[1:])
    await consuming.until_equal([*order, *other, *copied])
    await named(consumer, *records)
    body = await consuming.until_proven()
    assert (body["unproven"], body["dead_letters"], body["waiting_orders"]) == ([], 0, 0)


async def test_known_id_with_another_value_place_or_order_is_forged_and_stops_nothing(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    order, other = (an_order(source, ("placed", "paid")) for _ in range(2))
    await publish(pipeline, [*order, *other])
    consumer = consuming.start()
    await consuming.until_equal([*order, *other])
    known = order[1].event_id
    records = [
        forged(order[1], event_id=known, sequence=2),
        forged(order[1], event_id=known, sequence=9),
        forged(other[1], event_id=known),
        forged(order[1], sequence=1),
    ]
    await send(pipeline, *records)
    later = an_order(source, ("paid",))
    await publish(pipeline, later)
    await consuming.until_equal([*order, *other, *later])
    await named(consumer, *records)
    body = await consuming.until_proven()
    assert (body["dead_letters"], body["unproven"], body["forged_count"]) == (0, [], 4)


async def test_records_that_postgres_can_not_store_stop_nothing(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    order = an_order(source, ("placed", "paid"))
    await publish(pipeline, order)
    consumer = consuming.start()
    await consuming.until_equal(order)
    payloads = [b"[" * 100_000, json.dumps({"order_id": "\ud800\0"}).encode()]
    records = [forged(order[1], payload=payload) for payload in payloads]
    records.append(forged(order[1], name="paid\0"))
    await send(pipeline, *records)
    async with producing(pipeline.kafka) as producer:
        for headers in ([("\0", b"\0")], [("ce_specversion", b"\0")], [("ce_time", b"\0"), ("ce_sequence", b"\0")]):
            full = {"ce_id": b"x", "ce_type": b"x", "ce_time": b"x", "ce_subject": b"x", "ce_sequence": b"\0"}
            chosen = [*({"ce_specversion": b"1.0"} | full | dict(headers)).items()]
            await producer.send_and_wait(pipeline.topic, b"\0", b"key", headers=chosen)
        for spoilt in ({"missing_count": 2**70}, {"missing": [{"order_id": "\0"}]}, {"missing": ["\ud800"]}):
            await announce(pipeline, producer, datetime.now(UTC), **spoilt)
    later = an_order(source, ("paid",))
    await publish(pipeline, later)
    await consuming.until_equal([*order, *later])
    await eventually(lambda: consumer.reached("consumer_dead_letters", 6), 20, "the dead letters")
    await consuming.until_proven()


@pytest.mark.parametrize(
    ("far", "offset"), [(True, 0), (False, 2**62)], ids=["far ahead and reached", "just ahead and never reached"]
)
async def test_stream_of_forged_watermarks_is_named_and_hides_nothing(
    consuming: Platform, pipeline: Pipeline, source: random.Random, *, far: bool, offset: int
) -> None:
    async def up_to() -> datetime:
        own: datetime | None = await pipeline.connection.fetchval("SELECT up_to FROM relay.watermark")
        return datetime(9998, 1, 1, tzinfo=UTC) if far or own is None else own + timedelta(microseconds=1)

    order = an_order(source, ("placed", "paid"))
    await publish(pipeline, order)
    await pipeline.until_sent(len(order))
    async with announcing(pipeline, up_to, offset):
        consumer = consuming.start()
        await consuming.until_proven()

        async def is_named() -> bool:
            return bool(consumer.lines("watermark.forged"))

        await eventually(is_named, 20, "the forged watermark by name")
        record = forged(order[-1])
        await send(pipeline, record)
        await named(consumer, record)
        await consuming.until_equal(order)
        body = (await consumer.call("GET", "/v1/completeness")).body
    assert datetime.fromisoformat(body["compared_up_to"]) <= datetime.now(UTC)


async def test_event_withdrawn_by_a_relay_that_lacked_it_comes_back_by_retry(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    order = an_order(source, ("placed", "paid"))
    await publish(pipeline, order)
    await pipeline.until_sent(2)
    skip = "UPDATE orders.outbox SET status = 'SKIPPED', sent_at = NULL WHERE event_id = $1"
    await pipeline.connection.execute(skip, order[1].event_id)
    consumer = consuming.start()
    found = await named(consumer, forged(order[0], event_id=order[1].event_id))
    assert found[0]["reason"] == "an operator gave this event up, so it was never published"
    await consuming.until_equal(order[:1])
    unskip = "UPDATE orders.outbox SET status = 'SENT', sent_at = now() WHERE event_id = $1"
    await pipeline.connection.execute(unskip, order[1].event_id)
    await retried(consuming)
    await consuming.until_equal(order)
    body = await consuming.until_proven()
    assert (body["forged_count"], body["unproven"]) == (0, [])


@pytest.mark.real_broker
async def test_forged_transaction_is_named_if_committed_and_unseen_if_aborted(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    orders = [an_order(source, ("placed", "paid")) for _ in range(2)]
    events = [event for order in orders for event in order]
    await publish(pipeline, events)
    consumer = consuming.start()
    await consuming.until_equal(events)
    aborted, committed = (forged(order[-1]) for order in orders)
    await sent_in_transaction(pipeline, [aborted], commit=False)
    await sent_in_transaction(pipeline, [committed], commit=True)
    await named(consumer, committed)
    await consuming.until_equal(events)
    assert (await consuming.until_proven())["forged_count"] == 1
