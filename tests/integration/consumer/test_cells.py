"""One consumer reads the topics of two cells, each with a relay and a database of its own."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from deploy.consumer import baseline, intake
from deploy.consumer.__main__ import Exit, declare_baseline, retry
from deploy.consumer.runtime import Pool
from deploy.consumer.verification import UNKNOWN
from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Pipeline, order_in
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.consumer.forgery import Forged, forged, named, send
from tests.integration.consumer.platform import (
    LONG_AGO,
    OrderEvent,
    Platform,
    Process,
    an_order,
    mark_sent,
    platform,
    publish,
    relaying,
)
from tests.integration.relay.conftest import emptied

BACK = timedelta(minutes=5)


class Cells:
    """Two cells, and the platform that reads both. The second cell's relay can be stopped and started."""

    def __init__(self, first: Pipeline, second: Pipeline, platform: Platform, urls: Sequence[str], port: int) -> None:
        self.first = first
        self.second = second
        self.platform = platform
        self.topics = f"{first.topic}={urls[0]} {second.topic}={urls[1]}"
        self._port = port
        self._relay = AsyncExitStack()

    def start(self, **changes: str) -> Process:
        return self.platform.start(CONSUMER_TOPICS=self.topics, **changes)

    async def start_second_relay(self) -> None:
        await self._relay.enter_async_context(relaying(self.second, self._port))

    async def stop_second_relay(self) -> None:
        await self._relay.aclose()


@pytest.fixture(scope="module")
def second_database(create_database: Callable[..., Database]) -> Database:
    return create_database(migrated=True)


@pytest.fixture
async def second(second_database: Database, pipeline: Pipeline) -> AsyncIterator[Pipeline]:
    """The second cell's outbox and topic, on the same broker."""
    connection = await emptied(second_database)
    url = second_database.as_role("relay_service")
    yield replace(pipeline, url=url, topic=f"{pipeline.topic}-c01", connection=connection)
    await connection.close()


@pytest.fixture
async def cells(
    pipeline: Pipeline, second: Pipeline, platform_database: Database, tmp_path: Path, reaper: Reaper
) -> AsyncIterator[Cells]:
    port = free_port()
    async with (
        relaying(pipeline) as url,
        platform(platform_database, pipeline, url, tmp_path, reaper) as there,
    ):
        cells = Cells(pipeline, second, there, (url, f"http://127.0.0.1:{port}"), port)
        await cells.start_second_relay()
        try:
            yield cells
        finally:
            await cells.stop_second_relay()


async def report(consumer: Process) -> dict[str, Any]:
    try:
        body: dict[str, Any] = (await consumer.call("GET", "/v1/completeness")).body
    except aiohttp.ClientConnectionError:  # it doesn't listen yet
        return {}
    return body


async def test_completeness_stands_still_while_a_relay_is_stopped_and_goes_on_over_both(
    cells: Cells, source: random.Random
) -> None:
    first = [event for _ in range(10) for event in an_order(source)]
    second = [event for _ in range(10) for event in an_order(source)]
    await publish(cells.first, first)
    await publish(cells.second, second)
    consumer = cells.start()
    await cells.platform.until_equal([*first, *second])
    proven = datetime.fromisoformat((await cells.platform.until_proven())["proven_up_to"])
    await cells.stop_second_relay()
    # Have both topics proven again, so that no minute needs to pass.
    earlier = proven - BACK
    await cells.platform.connection.execute("UPDATE platform.watermarks SET checked_up_to = $1", earlier)
    more = [event for _ in range(10) for event in an_order(source)]
    unpublished = an_order(source)
    await publish(cells.first, more)
    await publish(cells.second, unpublished)

    async def one_goes_on() -> dict[str, Any] | None:
        body = await report(consumer)
        times = {one["topic"]: datetime.fromisoformat(one["proven_up_to"]) for one in body["topics"]}
        return body if times[cells.first.topic] >= proven else None

    body = await eventually(one_goes_on, 30, "the proof of the first cell's topic")
    assert body is not None
    assert datetime.fromisoformat(body["proven_up_to"]) == earlier
    assert body["waits_for"] == [cells.second.topic]
    await cells.platform.until_equal([*first, *second, *more])
    await cells.start_second_relay()
    await cells.platform.until_equal([*first, *second, *more, *unpublished])
    body = await cells.platform.until_proven(proven)
    assert (body["unproven"], body["repaired"], body["forged_count"], body["dead_letters"]) == ([], [], 0, 0)


async def test_each_order_is_judged_by_the_relay_of_its_own_topic(cells: Cells, source: random.Random) -> None:
    other, gap = an_order(source, ("placed", "paid")), an_order(source, ("placed", "paid", "refunded"))
    await publish(cells.first, other)
    await mark_sent(cells.second, gap[0])
    await publish(cells.second, gap[1:])
    refund, copied = forged(gap[0]), await copy_of(cells.first, other[1])
    await send(cells.first, refund)  # of the second cell's order, on the first cell's topic
    await send(cells.second, copied)  # the relay's own record, on the topic of a relay that doesn't know it
    consumer = cells.start()
    await named(consumer, refund)
    await cells.platform.until_equal([*other, *gap])
    await cells.platform.until_proven()
    body = await report(consumer)
    found = {(one["event_id"], one["topic"]) for one in body["forged"]}
    # The copy is named as well if the minute of its topic is compared before the relay's own record was read.
    assert found - {(str(copied.event_id), cells.second.topic)} == {(str(refund.event_id), cells.first.topic)}
    assert all(line["given_up"] == [] for line in consumer.lines("gap.filled"))


async def copy_of(pipeline: Pipeline, event: OrderEvent) -> Forged:
    at = await pipeline.connection.fetchval("SELECT occurred_at FROM orders.outbox WHERE event_id = $1", event.event_id)
    return Forged(event.event_id, event.order_id, event.sequence, event.name, event.payload, at)


async def test_baseline_of_one_cell_leaves_the_other_as_it_is(cells: Cells, source: random.Random) -> None:
    lost, kept = an_order(source, ("paid",)), an_order(source, ("paid",))
    await publish(cells.first, kept)
    await publish(cells.second, lost)
    consumer = cells.start()
    await cells.platform.until_equal([*lost, *kept])
    await cells.platform.until_proven()
    await consumer.stop()
    settings = cells.platform.settings(CONSUMER_TOPICS=cells.topics)
    since = datetime.now(UTC) - 2 * LONG_AGO
    for topic, named_by in ((None, "--topic"), ("orders.other", "orders.other")):
        with pytest.raises(baseline.Refused, match=named_by):
            await baseline.declare(settings, since, topic)
    # The restore: the second cell's database has no order any more.
    await cells.second.connection.execute("TRUNCATE orders.outbox")
    assert await declare_baseline(settings, since, cells.second.topic) is Exit.DONE
    consumer = cells.start()
    await cells.platform.until_equal(kept)
    body = await cells.platform.until_proven()
    assert [(one["event_id"], one["topic"]) for one in body["lost"]] == [(str(lost[0].event_id), cells.second.topic)]
    assert body["forged_count"] == 0


async def test_retry_brings_back_what_a_wrong_relay_did_not_know(cells: Cells, source: random.Random) -> None:
    order = an_order(source, ("paid",))
    await publish(cells.second, order)
    consumer = cells.start()
    await cells.platform.until_equal(order)
    await consumer.stop()
    settings = cells.platform.settings(CONSUMER_TOPICS=cells.topics)
    # As while the topic's address is that of a relay that knows none of its orders.
    async with Pool(settings) as pool, pool.transaction() as db:
        assert await intake.withdraw(db, {order[0].event_id: UNKNOWN}, {order[0].order_id})
    assert await cells.platform.orders() == {}
    assert await retry(settings) is Exit.DONE
    cells.start()
    await cells.platform.until_equal(order)


@pytest.mark.parametrize("source_", ["topic", "relay"])
async def test_event_under_the_topic_of_another_cell_finds_its_own(
    cells: Cells, source: random.Random, source_: str
) -> None:
    order = an_order(source, ("paid",))
    await publish(cells.second, order)
    consumer = cells.start()
    await cells.platform.until_equal(order)
    proven = datetime.fromisoformat((await cells.platform.until_proven())["proven_up_to"])
    await consumer.stop()
    db = cells.platform.connection
    await db.execute("UPDATE platform.inbox SET topic = $1, source = $2", cells.first.topic, source_)
    again = "UPDATE platform.watermarks SET checked_up_to = $1 WHERE topic = $2"
    await db.execute(again, proven - 2 * LONG_AGO, cells.first.topic)
    consumer = cells.start()

    async def corrected() -> bool:
        return bool(await db.fetchval("SELECT topic FROM platform.inbox") == cells.second.topic)

    await eventually(corrected, 30, "the topic of the event")
    await cells.platform.until_equal(order)
    body = await cells.platform.until_proven(proven)
    assert (body["forged_count"], consumer.lines("event.forged")) == (0, [])


async def test_second_cell_on_the_same_topic_is_refused(real_pipeline: Pipeline, second: Pipeline) -> None:
    same = replace(second, topic=real_pipeline.topic)
    events, others = ([OrderEvent(order_in(shard), 1, "paid", "ann", 1) for shard in range(4)] for _ in range(2))
    async with real_pipeline.relay():
        await publish(real_pipeline, events)
        await real_pipeline.until_sent(4)
        await publish(same, others)
        with capture_logs() as logs:
            async with same.relay():

                async def refused() -> bool:
                    return {one["shard"] for one in logs if one["event"] == "shard.refused"} == {0, 1, 2, 3}

                await eventually(refused, 30, "every shard refused")
        assert await same.statuses() == {"PENDING": 4}
        async with real_pipeline.reader() as reader:
            assert len(await reader.to_the_end()) == 4
