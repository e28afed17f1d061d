"""Events are published again at an operator's request, only into a separate topic."""

import asyncio
import signal
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import ConsumerRecord

from services.relay.domain.refusals import (
    EventsRemoved,
    ReplayNotFound,
    ReplayNotRunning,
    ReplayNotStopped,
    ReplayOfNothing,
    ReplayTopicNotAllowed,
)
from services.relay.replay import api as replays
from services.relay.replay import store as replay_store
from services.relay.replay import worker as replay
from services.relay.replay.store import Selection
from shared.ids import uuid7
from tests.infrastructure.pipeline import Event, Pipeline, expected, header, identity, order_in, write
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.relay_processes import replicas
from tests.infrastructure.waiting import eventually
from tests.integration.relay.operators import NO_PARTITION, SUE, command, operating, removed

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a new replay soon: each test waits for the beginning of one at least."""
    monkeypatch.setattr(replay, "IDLE_SECONDS", 0.1)


async def published(pipeline: Pipeline, orders: int, each: int = 1) -> list[Event]:
    """Write published events, each order's in sequence."""
    order_ids = [order_in(number % 4) for number in range(orders)]
    events = [Event(order_id, sequence) for sequence in range(1, each + 1) for order_id in order_ids]
    await write(pipeline.connection, events)
    await pipeline.until_sent(len(events))
    return events


async def start(pipeline: Pipeline, topic: str = "", **selection: Any) -> UUID:
    """Request a replay, and return its id."""
    topic = topic or f"{pipeline.topic}-again"
    async with operating(pipeline) as pool:
        found = await replays.start(pipeline.settings(), pool, topic, Selection(**selection), SUE)
    replay_id: UUID = found["replay_id"]
    return replay_id


async def how(pipeline: Pipeline, replay_id: UUID) -> dict[str, Any]:
    """Return a replay's row."""
    async with operating(pipeline) as pool:
        return await replays.get(pool, replay_id)


async def until(pipeline: Pipeline, replay_id: UUID, state: str) -> dict[str, Any]:
    """Wait for a replay's state."""

    async def is_so() -> bool:
        query = "SELECT state = $2 FROM relay.replays WHERE replay_id = $1"
        return bool(await pipeline.connection.fetchval(query, replay_id, state))

    await eventually(is_so, 30, f"a replay that is {state}")
    return await how(pipeline, replay_id)


async def replayed(pipeline: Pipeline) -> list[ConsumerRecord]:
    """Return the records on the replay's topic."""
    async with pipeline.reader(f"{pipeline.topic}-again") as reader:
        return await reader.to_the_end()


async def test_replayed_events_of_an_order_keep_sequence_and_ids(pipeline: Pipeline) -> None:
    async with pipeline.relay():
        events = await published(pipeline, orders=5, each=3)
        replay_id = await start(pipeline, order_id=events[2].order_id)
        done = await until(pipeline, replay_id, "DONE")
        wanted = [event for event in events if event.order_id == events[2].order_id]
        records = await replayed(pipeline)
        assert [identity(record) for record in records] == expected(wanted)
        assert {header(record, "ce_replayid") for record in records} == {str(replay_id)}
        assert (done["events"], done["actor"], done["reason"]) == (3, "sue", "a test")
        async with pipeline.reader() as reader:
            assert len(await reader.to_the_end()) == 15


async def test_replay_selects_by_type_time_or_both(pipeline: Pipeline) -> None:
    async with pipeline.relay():
        before = await published(pipeline, orders=3)
        middle = await pipeline.connection.fetchval(
            "SELECT max(occurred_at) + interval '1 microsecond' FROM orders.outbox"
        )
        after = await published(pipeline, orders=2)
        await until(pipeline, await start(pipeline, to_at=middle), "DONE")
        assert sorted(map(identity, await replayed(pipeline))) == sorted(expected(before))
        assert (await until(pipeline, await start(pipeline, from_at=middle), "DONE"))["events"] == len(after)
        assert (await until(pipeline, await start(pipeline, type="order.paid.v1"), "DONE"))["events"] == 5
        both = await start(pipeline, type="order.expired.v1", from_at=LONG_AGO)
        assert (await until(pipeline, both, "DONE"))["events"] == 0


async def test_replay_ends_at_the_topic_end_of_its_request_time(pipeline: Pipeline) -> None:
    async with pipeline.relay(replay_events_per_second=20):
        await published(pipeline, orders=30)
        replay_id = await start(pipeline, from_at=LONG_AGO)
        await published(pipeline, orders=1)
        assert (await until(pipeline, replay_id, "DONE"))["events"] == 30


async def test_replay_keeps_its_rate_and_live_events_overtake_it(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "STEP_EVENTS", 5)
    async with pipeline.relay(replay_events_per_second=20):
        await published(pipeline, orders=40)
        replay_id = await start(pipeline, from_at=LONG_AGO)

        async def begun() -> bool:
            return bool((await how(pipeline, replay_id))["events"])

        await eventually(begun, 30, "a replay under way")
        await write(pipeline.connection, [Event(order_in(shard), 1) for shard in range(4)])
        await pipeline.until_sent(44)
        assert (await how(pipeline, replay_id))["state"] == "RUNNING"
        await until(pipeline, replay_id, "DONE")
        records = await replayed(pipeline)
        took = max(record.timestamp for record in records) - min(record.timestamp for record in records)
        assert took >= 35 / 20 * 1000 * 0.9


async def test_cancelled_replay_stops_and_resumes_at_its_position(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "STEP_EVENTS", 5)
    async with pipeline.relay(replay_events_per_second=50):
        events = await published(pipeline, orders=40)
        replay_id = await start(pipeline, from_at=LONG_AGO)

        async def begun() -> bool:
            return bool((await how(pipeline, replay_id))["events"])

        await eventually(begun, 30, "a replay under way")
        async with operating(pipeline) as pool:
            cancelled = await replays.cancel(pool, replay_id, SUE)
            assert (cancelled["state"], cancelled["changed_by"]) == ("CANCELLED", "sue")
            assert cancelled["events"] < 40
            other = await start(pipeline, order_id=events[0].order_id)
            await until(pipeline, other, "DONE")
            assert (await how(pipeline, replay_id))["events"] == cancelled["events"]
            await replays.resume(pool, replay_id, SUE)
        assert (await until(pipeline, replay_id, "DONE"))["events"] == 40
        first = list(dict.fromkeys(map(identity, await replayed(pipeline))))
        assert sorted(first) == sorted(expected(events))


async def test_a_replay_survives_the_death_of_its_relay(
    real_pipeline: Pipeline, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = real_pipeline
    async with pipeline.relay():
        events = await published(pipeline, orders=60, each=3)
    replay_id = await start(pipeline, from_at=LONG_AGO)
    monkeypatch.setattr(replay, "STEP_EVENTS", 20)
    monkeypatch.setenv("RELAY_KAFKA_TIMEOUT_SECONDS", "1")
    monkeypatch.setenv("RELAY_REPLAY_EVENTS_PER_SECOND", "20")

    async def begun() -> bool:
        return bool(await pipeline.connection.fetchval("SELECT events > 0 OR position > 0 FROM relay.replays"))

    with replicas(pipeline, reaper) as start_replica:
        victim = start_replica()
        await eventually(begun, 30, "a replay under way")
        await victim.end(signal.SIGKILL)
    monkeypatch.delenv("RELAY_REPLAY_EVENTS_PER_SECOND")  # the slow rate was for the kill
    # As if the replica had died between publishing its step and recording it.
    await pipeline.connection.execute("UPDATE relay.replays SET position = 30, events = 30, state = 'RUNNING'")
    async with pipeline.relay(kafka_timeout_seconds=1.0):
        await until(pipeline, replay_id, "DONE")
    records = await replayed(pipeline)
    first = list(dict.fromkeys(map(identity, records)))
    assert len(records) > len(first), "a step was published twice"
    assert sorted(first) == sorted(expected(events))
    sequences: dict[str, list[int]] = defaultdict(list)
    for order_id, sequence, _ in first:
        sequences[order_id].append(sequence)
    assert all(each == [1, 2, 3] for each in sequences.values())


async def test_a_replay_whose_topic_refuses_an_event_fails_alone_and_names_it(real_pipeline: Pipeline) -> None:
    pipeline = real_pipeline
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.kafka)
    await admin.start()
    try:
        narrow = NewTopic(f"{pipeline.topic}-again", 4, 1, topic_configs={"max.message.bytes": "20000"})
        await admin.create_topics([narrow])
    finally:
        await admin.close()
    large = Event(order_in(1), 1, payload=b"x" * 50_000)
    async with pipeline.relay():
        await published(pipeline, orders=3)
        await write(pipeline.connection, [large])
        await pipeline.until_sent(4)
        replay_id = await start(pipeline, from_at=LONG_AGO)
        failed = await until(pipeline, replay_id, "FAILED")
        assert str(large.event_id) in failed["failure"]
        await published_more(pipeline, 4)
        async with operating(pipeline) as pool:
            assert (await replays.cancel(pool, replay_id, SUE))["failure"] is None


async def published_more(pipeline: Pipeline, already: int) -> None:
    """Live publishing continues."""
    await write(pipeline.connection, [Event(order_in(shard), 1) for shard in range(4)])
    await pipeline.until_sent(already + 4)


async def test_a_replay_stops_before_an_event_that_still_waits(pipeline: Pipeline) -> None:
    events = [Event(order_in(0), 1) for _ in range(4)]
    await write(pipeline.connection, events)
    await pipeline.connection.execute(
        "UPDATE orders.outbox SET status = 'SENT', sent_at = now() WHERE event_id <> $1", events[2].event_id
    )
    await start(pipeline, from_at=LONG_AGO)
    async with operating(pipeline) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        window = await replay_store.replay_window(connection, found, events_max=10, bytes_max=1000)
        assert [event.event_id for event in window.wanted] == [str(event.event_id) for event in events[:2]]
        assert window.position is not None
        assert await replay_store.advance_replay(connection, found, window.position, 2, done=False)
        assert not await replay_store.advance_replay(connection, found, window.position, 2, done=False), "twice"
        moved = await replay_store.next_replay(connection)
        assert moved is not None
        rest = await replay_store.replay_window(connection, moved, events_max=10, bytes_max=1000)
        assert (rest.wanted, rest.position) == ([], None)
        assert await replay_store.replay_waits(connection, moved)


async def test_replay_into_a_topic_of_the_relay_is_refused(pipeline: Pipeline) -> None:
    for topic in (
        pipeline.topic,
        f"{pipeline.topic}.positions",
        f"{pipeline.topic}.watermarks",
        "__transaction_state",
        "..",
    ):
        with pytest.raises(ReplayTopicNotAllowed):
            await start(pipeline, topic, from_at=LONG_AGO)
    assert await pipeline.connection.fetchval("SELECT count(*) FROM relay.replays") == 0


async def test_empty_replay_or_one_of_removed_events_is_refused(pipeline: Pipeline) -> None:
    for selection in ({}, {"from_at": LONG_AGO, "to_at": LONG_AGO}):
        with pytest.raises(ReplayOfNothing):
            await start(pipeline, f"{pipeline.topic}-again", **selection)
    async with removed(pipeline, LONG_AGO):
        with pytest.raises(EventsRemoved):
            await start(pipeline, from_at=LONG_AGO)
        await start(pipeline, from_at=LONG_AGO + timedelta(seconds=1))


async def test_replay_of_events_removed_meanwhile_fails_and_refuses_to_resume(pipeline: Pipeline) -> None:
    replay_id = await start(pipeline, from_at=LONG_AGO)
    async with removed(pipeline, LONG_AGO), operating(pipeline) as pool, pipeline.relay():
        failed = await until(pipeline, replay_id, "FAILED")
        assert failed["failure"] == f"Events up to {LONG_AGO.isoformat()} have been removed."
        with pytest.raises(EventsRemoved):
            await replays.resume(pool, replay_id, SUE)
        # If the replay had a later position, nothing would be lost.
        await pipeline.connection.execute(
            "UPDATE relay.replays SET position = ($1::bigint + 1) << 40, up_to = ($1 + 2) << 40", NO_PARTITION
        )
        await replays.resume(pool, replay_id, SUE)
        await until(pipeline, replay_id, "DONE")


async def test_replay_without_a_start_publishes_the_events_of_its_request_time(pipeline: Pipeline) -> None:
    async with removed(pipeline, LONG_AGO):
        async with pipeline.relay():
            await until(pipeline, await start(pipeline, type="order.paid.v1"), "DONE")
        replay_id = await start(pipeline, type="order.paid.v1")
        await pipeline.connection.execute(
            "UPDATE orders.outbox_partitions SET dropped_at = clock_timestamp() WHERE partition = $1", NO_PARTITION
        )
        async with pipeline.relay():
            await until(pipeline, replay_id, "FAILED")


async def test_only_a_running_replay_is_cancelled_and_a_stopped_one_resumed(pipeline: Pipeline) -> None:
    replay_id = await start(pipeline, from_at=LONG_AGO)
    async with operating(pipeline) as pool:
        with pytest.raises(ReplayNotStopped):
            await replays.resume(pool, replay_id, SUE)
        await replays.cancel(pool, replay_id, SUE)
        with pytest.raises(ReplayNotRunning):
            await replays.cancel(pool, replay_id, SUE)
        for act in (replays.cancel, replays.resume):
            with pytest.raises(ReplayNotFound):
                await act(pool, uuid7(), SUE)


async def test_command_line_starts_lists_cancels_and_resumes_replays(pipeline: Pipeline) -> None:
    who = ("--by", "sue", "--reason", "a test", "--json")
    (asked,) = (await command(pipeline, "replay", "again", "--from", "2020-01-01T00:00:00Z", *who)).json
    assert (asked["topic"], asked["state"], asked["from_at"][:10]) == ("again", "RUNNING", "2020-01-01")
    assert [one["replay_id"] for one in (await command(pipeline, "replays", "--json")).json] == [asked["replay_id"]]
    for name, state in (("cancel", "CANCELLED"), ("resume", "RUNNING")):
        (done,) = (await command(pipeline, name, asked["replay_id"], *who)).json
        assert (done["state"], done["changed_by"]) == (state, "sue")
    refused = await command(pipeline, "replay", "orders.v1", "--type", "order.paid.v1", *who)
    assert (refused.status, refused.err.split(":")[0]) == (1, "ReplayTopicNotAllowed")
    for wrong in (
        ("replay", "a/b"),
        ("replay", "again", "--from", "2020-01-01T00:00:00"),
        ("replay", "x", "--to", "y"),
    ):
        assert (await asyncio.wait_for(command(pipeline, *wrong, *who), 10)).status == 2
