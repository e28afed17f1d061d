"""`baseline`: after a restore of the order database, the consumer takes the relay's new history as the true one.

A restore is simulated: rows of the outbox are deleted, as they are missing in an older dump.
"""

import os
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from deploy.consumer import baseline
from deploy.consumer.__main__ import Exit, declare_baseline, retry
from deploy.consumer.runtime import Pool, Unavailable
from tests.infrastructure import forks
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.forgery import forged, named, send
from tests.integration.consumer.platform import (
    OrderEvent,
    Platform,
    Process,
    an_order,
    mark_sent,
    publish,
)

BEFORE = timedelta(minutes=20)  # when what is in the dump was committed
DUMPED = timedelta(minutes=15)


def dumped_at() -> datetime:
    return datetime.now(UTC) - DUMPED


async def lose(pipeline: Pipeline, *events: OrderEvent) -> None:
    """Remove events from the relay's history."""
    ids = [event.event_id for event in events]
    await pipeline.connection.execute("DELETE FROM orders.outbox WHERE event_id = ANY ($1::uuid[])", ids)


async def lost(consumer: Process, events: Sequence[OrderEvent]) -> Mapping[str, Any]:
    """Wait until the consumer names these events as lost; return what it reports."""
    wanted = {str(event.event_id) for event in events}

    async def named_all() -> Mapping[str, Any] | None:
        try:
            body = (await consumer.call("GET", "/v1/completeness")).body
        except aiohttp.ClientConnectionError:  # it doesn't listen yet
            return None
        return body if {one["event_id"] for one in body["lost"]} == wanted else None

    body = await eventually(named_all, 30, "the lost events by name")
    assert body is not None
    await consumer.logged("event.lost", lambda lines: {line["event_id"] for line in lines} == wanted)
    return body


async def test_lost_events_are_named_and_withdrawn_and_the_new_history_is_taken(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    kept = an_order(source, ("placed", "paid"))
    gone = an_order(source, ("placed", "paid"))
    other = an_order(source, ("placed", "paid", "refunded"))
    await publish(pipeline, [*kept, other[0]], BEFORE)
    await publish(pipeline, [*gone, other[2]])
    await mark_sent(pipeline, other[1])  # the consumer has it from the relay
    consumer = consuming.start()
    await consuming.until_equal([*kept, *gone, *other])
    await consuming.until_proven()
    await consumer.stop()

    unread = an_order(source, ("paid",))
    await publish(pipeline, unread)
    await pipeline.until_sent(7)
    await lose(pipeline, *gone, *other[1:], *unread)
    assert await declare_baseline(consuming.settings(), dumped_at()) is Exit.DONE
    instead = OrderEvent(other[0].order_id, 2, "cancelled", other[0].user_id, other[0].total_amount)
    later = an_order(source, ("paid",))
    await publish(pipeline, [instead, *later])
    consumer = consuming.start()
    await consuming.until_equal([*kept, other[0], instead, *later])
    body = await lost(consumer, [*gone, *other[1:], *unread])
    assert body["forged_count"] == 0
    body = await consuming.until_proven()
    assert (body["unproven"], body["waiting_orders"], body["dead_letters"], body["forged"]) == ([], 0, 0, [])


async def test_record_that_is_forged_after_the_baseline_is_no_lost_one(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    order = an_order(source, ("placed", "paid"))
    await publish(pipeline, order, BEFORE)
    await pipeline.until_sent(2)
    assert await declare_baseline(consuming.settings(), dumped_at()) is Exit.DONE
    consumer = consuming.start()
    await consuming.until_equal(order)
    record = forged(order[1])
    await send(pipeline, record)
    await named(consumer, record)
    body = await consuming.until_proven()
    assert (body["forged_count"], body["lost_count"]) == (1, 0)


async def test_dead_letter_from_before_the_baseline_is_lost_and_not_forged(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    order = an_order(source, ("placed", "paid"))
    await publish(pipeline, order, BEFORE)
    await pipeline.until_sent(2)
    contradicting = forged(order[1], event_id=order[1].event_id, sequence=9)
    await send(pipeline, contradicting)
    assert await declare_baseline(consuming.settings(), dumped_at()) is Exit.DONE
    consumer = consuming.start()
    await consuming.until_equal(order)
    body = await lost(consumer, [order[1]])
    assert (body["forged_count"], body["dead_letters"], body["lost"][0]["sequence"]) == (0, 0, 9)


async def test_events_that_the_relay_has_after_all_come_back(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    order = an_order(source, ("placed", "paid"))
    await publish(pipeline, order)
    consumer = consuming.start()
    await consuming.until_equal(order)
    await consumer.stop()
    await lose(pipeline, *order)  # as if asked at a wrong address
    assert await declare_baseline(consuming.settings(), dumped_at()) is Exit.DONE
    consumer = consuming.start()
    await lost(consumer, order)
    for event in order:
        await mark_sent(pipeline, event)
    assert await retry(consuming.settings()) is Exit.DONE
    await consuming.until_equal(order)


async def test_baseline_is_refused_while_a_consumer_runs_or_what_it_needs_is_away(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    order = an_order(source, ("paid",))
    await publish(pipeline, order)
    consumer = consuming.start()
    await consuming.until_equal(order)
    await consuming.until_proven()
    settings = consuming.settings()
    for wrong, since in ((settings, dumped_at()), (settings, datetime.now(UTC) + timedelta(hours=1))):
        with pytest.raises(baseline.Refused, match=r"stop all consumers|in the future"):
            await baseline.declare(wrong, since)
    assert await declare_baseline(settings, dumped_at()) is Exit.FAILED
    for change in ({"relay_url": "http://127.0.0.1:1"}, {"kafka_bootstrap_servers": "127.0.0.1:1"}):
        with pytest.raises(Unavailable):
            await baseline.declare(settings.model_copy(update=change), dumped_at())
    await consumer.stop()
    assert await consuming.connection.fetchval("SELECT count(*) FROM platform.restores") == 0


async def test_baseline_waits_for_the_lease_of_a_consumer_that_a_dump_shows_as_running(consuming: Platform) -> None:
    await consuming.connection.execute(
        "INSERT INTO platform.duties VALUES ('completeness', 'dumped', clock_timestamp() + interval '2 seconds')"
    )
    assert await declare_baseline(consuming.settings(), dumped_at()) is Exit.DONE
    assert await consuming.connection.fetchval("SELECT count(*) FROM platform.restores") == 1


async def test_baseline_is_refused_if_a_consumer_starts_meanwhile(
    consuming: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def started(_: Pool) -> None:
        await consuming.connection.execute(
            "INSERT INTO platform.duties VALUES ('completeness', 'started', clock_timestamp() + interval '30 seconds')"
        )

    monkeypatch.setattr(baseline, "_await_end_of_lease", started)
    with pytest.raises(baseline.Refused, match="stop all consumers"):
        await baseline.declare(consuming.settings(), dumped_at())
    assert await consuming.connection.fetchval("SELECT count(*) FROM platform.restores") == 0


@pytest.mark.parametrize("arguments", [("baseline",), ("baseline", "--since", "now"), ("retry", "--since", "now")])
def test_baseline_without_a_time_ends_with_2(reaper: Reaper, arguments: Sequence[str]) -> None:
    done = forks.run("deploy.consumer", *arguments, environment=os.environ, reaper=reaper)
    assert (done.returncode, "--since" in done.stderr) == (2, True)
