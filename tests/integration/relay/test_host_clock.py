"""A wrong clock of the relay's host or of the database parks no event."""

import time
from datetime import timedelta
from typing import Any

import pytest

from services.relay import store
from services.relay.process import Relay
from tests.infrastructure.pipeline import Event, Pipeline, expected, identity, order_in, write
from tests.infrastructure.waiting import eventually

HOUR_SECONDS = 3600


@pytest.mark.parametrize("transactions", [True, False])
@pytest.mark.parametrize("hours", [2, -24 * 30])
async def test_relay_with_a_wrong_host_clock_stamps_records_with_database_time(
    real_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, hours: int, *, transactions: bool
) -> None:
    """Kafka refuses records over an hour ahead of its clock, and removes records older than its retention."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + hours * HOUR_SECONDS)
    events = [Event(order_in(shard), 1) for shard in range(4)]
    async with real_pipeline.relay(transactions=transactions):
        await write(real_pipeline.connection, events)
        await real_pipeline.until_sent(4)
    monkeypatch.undo()
    for topic in (real_pipeline.topic, f"{real_pipeline.topic}.positions"):
        if topic == real_pipeline.topic or transactions:
            async with real_pipeline.reader(topic) as reader:
                records = await reader.until(4)
            assert all(abs(record.timestamp / 1000 - time.time()) < 60 for record in records)
            if topic == real_pipeline.topic:
                assert sorted(map(identity, records)) == sorted(expected(events))


@pytest.mark.parametrize("transactions", [True, False])
async def test_events_wait_while_the_clocks_of_database_and_broker_differ(
    real_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, *, transactions: bool
) -> None:
    pipeline, right = real_pipeline, store.topic_partitions

    async def ahead(*arguments: Any) -> Any:
        recorded, now, shards = await right(*arguments)
        return recorded, now + timedelta(hours=2), shards

    monkeypatch.setattr(store, "topic_partitions", ahead)
    events = [Event(order_in(shard), 1) for shard in range(4)]
    async with pipeline.relay(transactions=transactions) as relay:
        await write(pipeline.connection, events)
        await eventually(lambda: all_named(relay), 20, "shards that name the clocks")
        assert await pipeline.statuses() == {"PENDING": 4}
        monkeypatch.undo()
        await pipeline.until_sent(4)
    assert await pipeline.statuses() == {"SENT": 4}


async def all_named(relay: Relay) -> bool:
    states = [publisher.state for publisher in relay.publishers() if publisher.failures.failing]
    return len(states) == 4 and all("InvalidTimestampError" in state and "clock" in state for state in states)
