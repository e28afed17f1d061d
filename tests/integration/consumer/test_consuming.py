"""The reference consumer ends with exactly the committed events, and reports what it lacks."""

import hashlib
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.consumer.completeness import Completeness
from deploy.consumer.relay import open_relays
from deploy.consumer.runtime import Pool
from services.relay.completeness import watermark
from tests.infrastructure.pipeline import Pipeline, producing
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import Platform, Process, an_order, insert_as, mark_sent, publish
from tests.integration.relay.operators import removed


async def copied(pipeline: Pipeline) -> None:
    """Send every record of the topic a second time, in the same order."""
    async with pipeline.reader() as reader:
        records = await reader.to_the_end()
    async with producing(pipeline.kafka) as producer:
        for record in records:
            await producer.send_and_wait(
                pipeline.topic, record.value, record.key, record.partition, headers=list(record.headers)
            )


async def test_consumer_ends_equal_to_the_orders_and_proves_each_closed_minute(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    events = [event for _ in range(60) for event in an_order(source)]
    for index, event in enumerate(events):
        await publish(pipeline, [event], timedelta(minutes=10 - 8 * index / len(events)))
    consumer = consuming.start()
    await consuming.until_equal(events)
    body = await consuming.until_proven()
    assert (body["unproven"], body["repaired"], body["dead_letters"], body["waiting_orders"]) == ([], [], 0, 0)
    compared = await consuming.connection.fetch("SELECT state, count(*) FROM platform.buckets GROUP BY state")
    assert {row["state"] for row in compared} == {"EQUAL"}
    assert compared[0]["count"] >= 4 * 9
    assert await consumer.metric("consumer_events_total") == len(events)
    await eventually(lambda: no_lag(consumer), 20, "no lag")
    await consumer.stop()


async def no_lag(consumer: Process) -> bool:
    seconds = await consumer.metric("consumer_proven_lag_seconds")
    return await consumer.metric("consumer_lag_records") == 0 and 0 < seconds < 120


async def test_records_that_come_again_change_nothing(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    events = [event for _ in range(30) for event in an_order(source)]
    await publish(pipeline, events)
    consumer = consuming.start()
    await consuming.until_equal(events)
    await copied(pipeline)
    await eventually(lambda: consumer.reached("consumer_duplicates_total", len(events)), 30, "the duplicates")
    await consuming.until_equal(events)
    assert (await consuming.until_proven())["unproven"] == []


async def test_consumer_rereads_a_topic_that_lacks_its_position(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    events = [event for _ in range(20) for event in an_order(source)]
    await publish(pipeline, events)
    first = consuming.start()
    await consuming.until_equal(events)
    await first.stop()
    await consuming.connection.execute("UPDATE platform.offsets SET position = 1000000")
    second = consuming.start()
    await eventually(lambda: at_least_ready(second, len(events)), 40, "the duplicates")
    await consuming.until_equal(events)


async def at_least_ready(consumer: Process, count: int) -> bool:
    await consumer.ready()
    return await consumer.reached("consumer_duplicates_total", count)


async def test_a_record_that_was_removed_is_named_by_minute_and_order_and_fetched(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    events = [event for _ in range(20) for event in an_order(source)]
    await publish(pipeline, events)
    lost = an_order(source, ("paid",))[0]
    await mark_sent(pipeline, lost)
    consumer = consuming.start()
    await consuming.until_equal([*events, lost])
    body = await consuming.until_proven()
    (bucket,) = body["repaired"]
    assert bucket["findings"] == [
        {"kind": "missing", "event_id": str(lost.event_id), "order_id": str(lost.order_id), "sequence": 1}
    ]
    occurred_at = await pipeline.connection.fetchval(
        "SELECT date_trunc('minute', occurred_at) FROM orders.outbox WHERE event_id = $1", lost.event_id
    )
    assert bucket["bucket"] == occurred_at.isoformat().replace("+00:00", "Z")
    assert bucket["shard"] == lost.order_id.int & 3
    (line,) = await consumer.logged("minute.differs", bool)
    assert line["orders"] == [str(lost.order_id)]
    assert (line["shard"], line["missing"], line["unexpected"]) == (lost.order_id.int & 3, 1, 0)
    assert await consumer.metric("consumer_missing_events_total") == 1


async def test_extra_or_changed_event_is_named_and_replaced_by_the_relays(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    events = [event for _ in range(10) for event in an_order(source, ("paid",))]
    await publish(pipeline, events)
    first = consuming.start()
    await consuming.until_equal(events)
    await first.stop()
    other = hashlib.sha256(b"other").digest()
    await consuming.connection.execute(
        "UPDATE platform.inbox SET sha256 = $2, payload = 'other' WHERE event_id = $1", events[0].event_id, other
    )
    await pipeline.connection.execute(
        "UPDATE orders.outbox SET status = 'SKIPPED', sent_at = NULL WHERE event_id = $1", events[1].event_id
    )
    await consuming.connection.execute("TRUNCATE platform.buckets; UPDATE platform.watermarks SET checked_up_to = NULL")
    consumer = consuming.start()
    await consumer.ready()

    async def named() -> set[tuple[str, str]]:
        body = (await consumer.call("GET", "/v1/completeness")).body
        found = {(one["kind"], one["order_id"]) for bucket in body["repaired"] for one in bucket["findings"]}
        return found if len(found) == 2 else set()

    assert await eventually(named, 30, "both findings") == {
        ("altered", str(events[0].order_id)),
        ("unexpected", str(events[1].order_id)),
    }
    await consuming.until_equal([events[0], *events[2:]])
    body = await consuming.until_proven()
    assert (body["unproven"], body["forged_count"]) == ([], 2)


async def test_gap_is_fetched_and_skipped_events_are_passed_over(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    gap, skipped = an_order(source, ("placed", "paid", "refunded")), an_order(source, ("placed", "paid"))
    await mark_sent(pipeline, gap[0])
    await mark_sent(pipeline, gap[1])
    await insert_as(pipeline, skipped[0], "status = 'SKIPPED'")
    await publish(pipeline, [gap[2], skipped[1]])
    consumer = consuming.start(CONSUMER_CHECK_INTERVAL_SECONDS="3600")  # a comparison must not find the gap first
    await consuming.until_equal([*gap, *skipped])
    found = {
        line["order_id"]: (line["first"], line["last"], line["fetched"], line["given_up"])
        for line in await consumer.logged("gap.filled", lambda lines: len(lines) == 2)
    }
    assert found == {str(gap[0].order_id): (1, 2, 2, []), str(skipped[0].order_id): (1, 1, 0, [1])}
    await consumer.ready()
    assert (await consumer.call("GET", "/v1/completeness")).body["waiting_orders"] == 0
    await consumer.stop()
    consuming.start()
    body = await consuming.until_proven()
    assert (body["unproven"], body["repaired"]) == ([], [])


async def test_watermark_that_was_read_and_not_compared_is_read_again_after_a_restart(
    consuming: Platform, pipeline: Pipeline, source: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watermark, "IDLE_SECONDS", 3600)  # no further one comes while nothing happens
    events = an_order(source)
    await publish(pipeline, events)
    consumer = consuming.start(CONSUMER_CHECK_INTERVAL_SECONDS="3600")
    await consuming.until_equal(events)

    async def read() -> bool:
        position = await consuming.connection.fetchval(
            "SELECT position FROM platform.offsets WHERE topic = $1", f"{pipeline.topic}.watermarks"
        )
        return bool(position == len(await reader.to_the_end()) > watermark.MOVES_AFTER_CHANGE)

    async with pipeline.reader(f"{pipeline.topic}.watermarks") as reader:
        await eventually(read, 30, "all watermarks read")
    await consumer.stop()
    consuming.start()
    await consuming.until_proven(seconds=30)


async def test_a_minute_with_a_parked_event_stays_open_until_an_operator_has_acted(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    (published,), (parked,) = an_order(source, ("paid",)), an_order(source, ("paid",))
    await publish(pipeline, [published], timedelta(minutes=20))
    await insert_as(pipeline, parked, "status = 'PARKED', parked_at = now(), parked_reason = 'x'")
    consumer = consuming.start()
    await consuming.until_equal([published])
    await consumer.ready()

    async def is_open() -> Any:
        body = (await consumer.call("GET", "/v1/completeness")).body
        # Later minutes are compared as well.
        return body if body["unproven"] and body["compared_up_to"] > body["unproven"][0]["bucket"] else None

    body = await eventually(is_open, 30, "a minute that is open")
    (bucket,) = body["unproven"]
    assert (bucket["state"], bucket["shard"]) == ("OPEN", parked.order_id.int & 3)
    assert body["proven_up_to"] == bucket["bucket"] < body["compared_up_to"]
    assert (body["parked_count"], body["parked"]) == (1, [{"order_id": str(parked.order_id), "sequence": 1}])
    await pipeline.connection.execute("""
        UPDATE orders.outbox SET status = 'PENDING', parked_at = NULL, parked_reason = NULL WHERE status = 'PARKED'
    """)
    await consuming.until_equal([published, parked])
    body = await consuming.until_proven()
    assert (body["unproven"], body["repaired"]) == ([], [])


async def test_a_minute_that_gets_an_event_after_it_was_found_equal_is_compared_again(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    (early,), (late,) = an_order(source, ("paid",)), an_order(source, ("paid",))
    await publish(pipeline, [early])
    consuming.start()
    await consuming.until_equal([early])
    await consuming.until_proven()
    compared = "SELECT bool_and(state = 'EQUAL'), max(compared_at) FROM platform.buckets"
    before = await consuming.connection.fetchrow(compared)
    await publish(pipeline, [late])  # as after a failover to a server whose clock is behind
    await consuming.until_equal([early, late])

    async def again() -> bool:
        after = await consuming.connection.fetchrow(compared)
        assert before is not None
        assert after is not None
        return bool(before[0] and after[0] and after[1] > before[1])

    await eventually(again, 40, "another comparison that finds it equal")
    query = "SELECT state FROM platform.buckets WHERE bucket = $1 AND shard = $2"
    bucket = await consuming.connection.fetchval(
        "SELECT date_trunc('minute', occurred_at) FROM platform.inbox WHERE event_id = $1", late.event_id
    )
    assert await consuming.connection.fetchval(query, bucket, late.order_id.int & 3) == "EQUAL"
    assert (await consuming.until_proven())["unproven"] == []


@pytest.mark.parametrize("state", ["OPEN", "DIFFERS", "STALE"])
async def test_removed_minutes_do_not_stop_others_from_being_compared_again(
    consuming: Platform, pipeline: Pipeline, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    again_max = 10  # as many minutes as one pass compares again
    monkeypatch.setattr("deploy.consumer.completeness.AGAIN_MAX", again_max)
    monkeypatch.setattr("deploy.consumer.completeness.AGAIN_SECONDS", 0.5)
    minute = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=20)
    gone = [minute - timedelta(days=1, minutes=number) for number in range(again_max)]
    put = "INSERT INTO platform.buckets VALUES ($1, 0, $2, $3, now() - interval '1 hour', $4)"
    findings = '[{"kind": "missing"}]'
    await consuming.connection.executemany(put, [(bucket, state, findings, pipeline.topic) for bucket in gone])
    await consuming.connection.execute(put, minute, "OPEN", "[]", pipeline.topic)
    await consuming.connection.execute(
        "INSERT INTO platform.watermarks (topic, up_to, partitions, missing, missing_count, checked_up_to)"
        " VALUES ($1, $2, '{}', '[]', 0, $2)",
        pipeline.topic,
        minute + timedelta(minutes=1),
    )
    settings = consuming.settings()
    async with removed(pipeline, gone[0]), Pool(settings) as pool, open_relays(settings) as relays:
        completeness = Completeness(settings, pool, relays)
        query = "SELECT state FROM platform.buckets WHERE bucket = $1"

        async def equal() -> bool:
            await completeness.check()
            return bool(await consuming.connection.fetchval(query, minute) == "EQUAL")

        await eventually(equal, 60, "the remaining minute")
    kept = await consuming.connection.fetch(
        "SELECT DISTINCT state, findings FROM platform.buckets WHERE bucket < $1", minute
    )
    assert [tuple(row) for row in kept] == [(state, findings)], "they stay named"


async def test_event_of_unknown_type_is_kept_and_counts_in_the_digest(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    placed, shipped, paid = an_order(source, ("placed", "shipped", "paid"))
    await publish(pipeline, [placed, shipped, paid])
    consuming.start()
    await consuming.until_equal([placed, paid])
    assert (await consuming.until_proven())["unproven"] == []
    state = "SELECT state FROM platform.inbox WHERE event_id = $1"
    assert await consuming.connection.fetchval(state, shipped.event_id) == "IGNORED"
