"""Operators have events published again, only into a separate topic."""

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
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually
from tests.integration.relay.operators import NO_PARTITION, SUE, command, operating, removed
from tests.integration.relay.test_competition import replicas
from tests.integration.relay.world import Event, World, expected, header, identity, order_in, write

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def published(world: World, orders: int, each: int = 1) -> list[Event]:
    """Events that have been published, an order's one after the other."""
    order_ids = [order_in(number % 4) for number in range(orders)]
    events = [Event(order_id, sequence) for sequence in range(1, each + 1) for order_id in order_ids]
    await write(world.connection, events)
    await world.until_sent(len(events))
    return events


async def start(world: World, topic: str = "", **selection: Any) -> UUID:
    """Ask for a replay, and return its id."""
    topic = topic or f"{world.topic}-again"
    async with operating(world) as pool:
        found = await replays.start(world.settings(), pool, topic, Selection(**selection), SUE)
    replay_id: UUID = found["replay_id"]
    return replay_id


async def how(world: World, replay_id: UUID) -> dict[str, Any]:
    """How a replay stands."""
    async with operating(world) as pool:
        return await replays.get(pool, replay_id)


async def until(world: World, replay_id: UUID, state: str) -> dict[str, Any]:
    """Wait for a replay's state."""

    async def is_so() -> bool:
        return bool((await how(world, replay_id))["state"] == state)

    await eventually(is_so, 30, f"a replay that is {state}")
    return await how(world, replay_id)


async def replayed(world: World) -> list[ConsumerRecord]:
    """What is on the topic of the replay."""
    async with world.reader(f"{world.topic}-again") as reader:
        return await reader.to_the_end()


async def test_replayed_events_of_an_order_keep_sequence_and_ids(world: World) -> None:
    async with world.relay():
        events = await published(world, orders=5, each=3)
        replay_id = await start(world, order_id=events[2].order_id)
        done = await until(world, replay_id, "DONE")
        wanted = [event for event in events if event.order_id == events[2].order_id]
        records = await replayed(world)
        assert [identity(record) for record in records] == expected(wanted)
        assert {header(record, "ce_replayid") for record in records} == {str(replay_id)}
        assert (done["events"], done["actor"], done["reason"]) == (3, "sue", "a test")
        async with world.reader() as reader:
            assert len(await reader.to_the_end()) == 15


async def test_replay_selects_by_type_time_or_both(world: World) -> None:
    async with world.relay():
        before = await published(world, orders=3)
        middle = await world.connection.fetchval(
            "SELECT max(occurred_at) + interval '1 microsecond' FROM orders.outbox"
        )
        after = await published(world, orders=2)
        await until(world, await start(world, to_at=middle), "DONE")
        assert sorted(map(identity, await replayed(world))) == sorted(expected(before))
        assert (await until(world, await start(world, from_at=middle), "DONE"))["events"] == len(after)
        assert (await until(world, await start(world, type="order.paid.v1"), "DONE"))["events"] == 5
        both = await start(world, type="order.expired.v1", from_at=LONG_AGO)
        assert (await until(world, both, "DONE"))["events"] == 0


async def test_replay_ends_at_the_topic_end_of_its_request_time(world: World) -> None:
    async with world.relay(replay_events_per_second=20):
        await published(world, orders=30)
        replay_id = await start(world, from_at=LONG_AGO)
        await published(world, orders=1)
        assert (await until(world, replay_id, "DONE"))["events"] == 30


async def test_replay_keeps_its_rate_and_live_events_overtake_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "STEP_EVENTS", 5)
    async with world.relay(replay_events_per_second=20):
        await published(world, orders=40)
        replay_id = await start(world, from_at=LONG_AGO)

        async def begun() -> bool:
            return bool((await how(world, replay_id))["events"])

        await eventually(begun, 30, "a replay under way")
        await write(world.connection, [Event(order_in(shard), 1) for shard in range(4)])
        await world.until_sent(44)
        assert (await how(world, replay_id))["state"] == "RUNNING"
        await until(world, replay_id, "DONE")
        records = await replayed(world)
        took = max(record.timestamp for record in records) - min(record.timestamp for record in records)
        assert took >= 35 / 20 * 1000 * 0.9


async def test_cancelled_replay_stops_and_resumes_at_its_position(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "STEP_EVENTS", 5)
    async with world.relay(replay_events_per_second=50):
        events = await published(world, orders=40)
        replay_id = await start(world, from_at=LONG_AGO)

        async def begun() -> bool:
            return bool((await how(world, replay_id))["events"])

        await eventually(begun, 30, "a replay under way")
        async with operating(world) as pool:
            cancelled = await replays.cancel(pool, replay_id, SUE)
            assert (cancelled["state"], cancelled["changed_by"]) == ("CANCELLED", "sue")
            assert cancelled["events"] < 40
            other = await start(world, order_id=events[0].order_id)
            await until(world, other, "DONE")
            assert (await how(world, replay_id))["events"] == cancelled["events"]
            await replays.resume(pool, replay_id, SUE)
        assert (await until(world, replay_id, "DONE"))["events"] == 40
        first = list(dict.fromkeys(map(identity, await replayed(world))))
        assert sorted(first) == sorted(expected(events))


async def test_a_replay_survives_the_death_of_its_relay(
    real_world: World, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = real_world
    async with world.relay():
        events = await published(world, orders=60, each=3)
    replay_id = await start(world, from_at=LONG_AGO)
    monkeypatch.setattr(replay, "STEP_EVENTS", 20)
    monkeypatch.setenv("RELAY_KAFKA_TIMEOUT_SECONDS", "1")
    monkeypatch.setenv("RELAY_REPLAY_EVENTS_PER_SECOND", "20")

    async def begun() -> bool:
        return bool(await world.connection.fetchval("SELECT events > 0 OR position > 0 FROM relay.replays"))

    with replicas(world, reaper) as start_replica:
        victim = start_replica()
        await eventually(begun, 30, "a replay under way")
        await victim.end(signal.SIGKILL)
    # As if it had died between publishing its step and noting it.
    await world.connection.execute("UPDATE relay.replays SET position = 30, events = 30, state = 'RUNNING'")
    async with world.relay(kafka_timeout_seconds=1.0):
        await until(world, replay_id, "DONE")
    records = await replayed(world)
    first = list(dict.fromkeys(map(identity, records)))
    assert len(records) > len(first), "a step came twice"
    assert sorted(first) == sorted(expected(events))
    sequences: dict[str, list[int]] = defaultdict(list)
    for order_id, sequence, _ in first:
        sequences[order_id].append(sequence)
    assert all(each == [1, 2, 3] for each in sequences.values())


async def test_a_replay_whose_topic_refuses_an_event_fails_alone_and_names_it(real_world: World) -> None:
    world = real_world
    admin = AIOKafkaAdminClient(bootstrap_servers=world.kafka)
    await admin.start()
    try:
        narrow = NewTopic(f"{world.topic}-again", 4, 1, topic_configs={"max.message.bytes": "20000"})
        await admin.create_topics([narrow])
    finally:
        await admin.close()
    large = Event(order_in(1), 1, payload=b"x" * 50_000)
    async with world.relay():
        await published(world, orders=3)
        await write(world.connection, [large])
        await world.until_sent(4)
        replay_id = await start(world, from_at=LONG_AGO)
        failed = await until(world, replay_id, "FAILED")
        assert str(large.event_id) in failed["failure"]
        await published_more(world, 4)
        async with operating(world) as pool:
            assert (await replays.cancel(pool, replay_id, SUE))["failure"] is None


async def published_more(world: World, already: int) -> None:
    """Live publishing goes on."""
    await write(world.connection, [Event(order_in(shard), 1) for shard in range(4)])
    await world.until_sent(already + 4)


async def test_a_replay_stops_before_an_event_that_still_waits(world: World) -> None:
    events = [Event(order_in(0), 1) for _ in range(4)]
    await write(world.connection, events)
    await world.connection.execute(
        "UPDATE orders.outbox SET status = 'SENT', sent_at = now() WHERE event_id <> $1", events[2].event_id
    )
    await start(world, from_at=LONG_AGO)
    async with operating(world) as pool, pool.connection() as connection:
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


async def test_replay_into_a_topic_of_the_relay_is_refused(world: World) -> None:
    for topic in (world.topic, f"{world.topic}.positions", f"{world.topic}.watermarks", "__transaction_state", ".."):
        with pytest.raises(ReplayTopicNotAllowed):
            await start(world, topic, from_at=LONG_AGO)
    assert await world.connection.fetchval("SELECT count(*) FROM relay.replays") == 0


async def test_empty_replay_or_one_of_removed_events_is_refused(world: World) -> None:
    for selection in ({}, {"from_at": LONG_AGO, "to_at": LONG_AGO}):
        with pytest.raises(ReplayOfNothing):
            await start(world, f"{world.topic}-again", **selection)
    async with removed(world, LONG_AGO):
        with pytest.raises(EventsRemoved):
            await start(world, from_at=LONG_AGO)
        await start(world, from_at=LONG_AGO + timedelta(seconds=1))


async def test_replay_of_events_removed_meanwhile_fails_and_refuses_to_resume(world: World) -> None:
    replay_id = await start(world, from_at=LONG_AGO)
    async with removed(world, LONG_AGO), operating(world) as pool, world.relay():
        failed = await until(world, replay_id, "FAILED")
        assert failed["failure"] == f"Events up to {LONG_AGO.isoformat()} have been removed."
        with pytest.raises(EventsRemoved):
            await replays.resume(pool, replay_id, SUE)
        # Had it come further than that, nothing would be lost.
        await world.connection.execute(
            "UPDATE relay.replays SET position = ($1::bigint + 1) << 40, up_to = ($1 + 2) << 40", NO_PARTITION
        )
        await replays.resume(pool, replay_id, SUE)
        await until(world, replay_id, "DONE")


async def test_replay_without_a_start_publishes_the_events_of_its_request_time(world: World) -> None:
    async with removed(world, LONG_AGO):
        async with world.relay():
            await until(world, await start(world, type="order.paid.v1"), "DONE")
        replay_id = await start(world, type="order.paid.v1")
        await world.connection.execute(
            "UPDATE orders.outbox_partitions SET dropped_at = clock_timestamp() WHERE partition = $1", NO_PARTITION
        )
        async with world.relay():
            await until(world, replay_id, "FAILED")


async def test_only_a_running_replay_is_cancelled_and_a_stopped_one_resumed(world: World) -> None:
    replay_id = await start(world, from_at=LONG_AGO)
    async with operating(world) as pool:
        with pytest.raises(ReplayNotStopped):
            await replays.resume(pool, replay_id, SUE)
        await replays.cancel(pool, replay_id, SUE)
        with pytest.raises(ReplayNotRunning):
            await replays.cancel(pool, replay_id, SUE)
        for act in (replays.cancel, replays.resume):
            with pytest.raises(ReplayNotFound):
                await act(pool, uuid7(), SUE)


async def test_command_line_starts_lists_cancels_and_resumes_replays(world: World) -> None:
    who = ("--by", "sue", "--reason", "a test", "--json")
    (asked,) = (await command(world, "replay", "again", "--from", "2020-01-01T00:00:00Z", *who)).json
    assert (asked["topic"], asked["state"], asked["from_at"][:10]) == ("again", "RUNNING", "2020-01-01")
    assert [one["replay_id"] for one in (await command(world, "replays", "--json")).json] == [asked["replay_id"]]
    for name, state in (("cancel", "CANCELLED"), ("resume", "RUNNING")):
        (done,) = (await command(world, name, asked["replay_id"], *who)).json
        assert (done["state"], done["changed_by"]) == (state, "sue")
    refused = await command(world, "replay", "orders.v1", "--type", "order.paid.v1", *who)
    assert (refused.status, refused.err.split(":")[0]) == (1, "ReplayTopicNotAllowed")
    for wrong in (
        ("replay", "a/b"),
        ("replay", "again", "--from", "2020-01-01T00:00:00"),
        ("replay", "x", "--to", "y"),
    ):
        assert (await asyncio.wait_for(command(world, *wrong, *who), 10)).status == 2
