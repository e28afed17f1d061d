"""The replay worker, step by step: after errors, after a pause, and with another replica."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import asyncpg
import pytest
from structlog.testing import capture_logs

from services.relay.kafka.admin import Broker
from services.relay.replay import store as replay_store
from services.relay.replay import worker as replay
from services.relay.replay.worker import LEADERSHIP, ReplayWorker
from shared.postgres.connections import Pool
from shared.process.tasks import FAILED_ROUNDS
from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Event, Pipeline, expected, header, identity, order_in, write
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.relay.operators import NO_PARTITION, operating
from tests.integration.relay.test_replay import LONG_AGO, how, start, until

LEASE = "SELECT lease_until > clock_timestamp() FROM relay.duties WHERE duty = $1"


@pytest.fixture(autouse=True)
async def no_leader(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "IDLE_SECONDS", 0.01)
    await pipeline.connection.execute("DELETE FROM relay.duties")


async def published(pipeline: Pipeline, events: Sequence[Event]) -> list[Event]:
    """Write events that count as published."""
    await write(pipeline.connection, events, notify=False)
    await pipeline.connection.execute("UPDATE orders.outbox SET status = 'SENT', sent_at = now()")
    return list(events)


@asynccontextmanager
async def replaying(pipeline: Pipeline, **changes: object) -> AsyncIterator[ReplayWorker]:
    """The worker of a replica that does nothing else."""
    settings = pipeline.settings(**changes)
    broker = Broker(settings)
    async with Pool(settings, "replay") as pool:
        replayer = ReplayWorker(settings, pool, broker)
        try:
            yield replayer
        finally:
            await replayer._give_up()
            await broker.close()


@asynccontextmanager
async def running(replayer: ReplayWorker) -> AsyncIterator["asyncio.Task[None]"]:
    """Run the worker, and stop it at the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(replayer.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await task


async def records(pipeline: Pipeline, topic: str = "") -> list[tuple[str, int, str]]:
    """Return the records on a replay's topic."""
    async with pipeline.reader(topic or f"{pipeline.topic}-again") as reader:
        return [identity(record) for record in await reader.to_the_end()]


async def test_paused_replica_publishes_no_step(pipeline: Pipeline) -> None:
    events = await published(pipeline, [Event(order_in(0), 1)])
    await start(pipeline, from_at=LONG_AGO)
    now = asyncio.get_running_loop().time
    async with replaying(pipeline) as replayer, operating(pipeline) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        window = await replay_store.replay_window(connection, found, events_max=10, bytes_max=1000)
        replayer._leadership.certain_until = now() - 0.001
        assert not await replayer._publish(found, window)
        assert await records(pipeline) == []
        replayer._leadership.certain_until = now() + 60
        assert await replayer._publish(found, window)
        assert await records(pipeline) == expected(events)


@pytest.mark.parametrize(
    ("fault", "mended", "cause"),
    [
        ("relay.duties RENAME TO away", "relay.away RENAME TO duties", "transient"),
        ("relay.replays RENAME up_to TO away", "relay.replays RENAME away TO up_to", "bug"),
    ],
    ids=["database", "bug"],
)
async def test_replay_continues_after_an_error(pipeline: Pipeline, fault: str, mended: str, cause: str) -> None:
    await published(pipeline, [Event(order_in(0), 1)])
    replay_id = await start(pipeline, from_at=LONG_AGO)
    await pipeline.connection.execute(f"ALTER TABLE {fault}")
    try:
        async with replaying(pipeline) as replayer, running(replayer) as task:
            await eventually(failing(task, cause), 10, "a failed step")
            await pipeline.connection.execute(f"ALTER TABLE {mended}")
            await until(pipeline, replay_id, "DONE")
    finally:
        with suppress(asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):  # it is mended
            await pipeline.connection.execute(f"ALTER TABLE {mended}")


async def test_replay_continues_after_an_outage_of_the_broker(pipeline: Pipeline) -> None:
    await published(pipeline, [Event(order_in(0), 1)])
    await start(pipeline, from_at=LONG_AGO)
    nowhere = {"kafka_bootstrap_servers": f"127.0.0.1:{free_port()}", "kafka_timeout_seconds": 0.5}
    async with replaying(pipeline, **nowhere) as replayer, running(replayer) as task:
        await eventually(failing(task, "transient", rounds=2), 10, "two failed steps")


def failing(task: "asyncio.Task[None]", cause: str, rounds: int = 1) -> Callable[[], Awaitable[bool]]:
    """Return a check that is true once this many rounds of the task have failed."""
    counter = FAILED_ROUNDS.labels("replay", cause)
    before = counter._value.get()

    async def failed() -> bool:
        assert not task.done(), "it has ended"
        return bool(counter._value.get() >= before + rounds)

    return failed


async def test_replay_waits_for_an_event_that_is_published_again(pipeline: Pipeline) -> None:
    await published(pipeline, [Event(order_in(0), 1)])
    replay_id = await start(pipeline, from_at=LONG_AGO)
    await pipeline.connection.execute("UPDATE orders.outbox SET status = 'PENDING', sent_at = NULL")
    async with replaying(pipeline) as replayer:
        for _ in range(2):
            await replayer._step()
        assert (await how(pipeline, replay_id))["state"] == "RUNNING"
        await pipeline.connection.execute("UPDATE orders.outbox SET status = 'SENT', sent_at = now()")
        await replayer._step()
        assert (await how(pipeline, replay_id))["state"] == "DONE"
    assert (await how(pipeline, replay_id))["events"] == 1


async def test_events_removed_during_a_step_fail_the_replay(pipeline: Pipeline, migrated: Database) -> None:
    """The events were removed after the step began, and its window does not have them."""
    events = await published(pipeline, [Event(order_in(0), 1)])
    replay_id = await start(pipeline, from_at=LONG_AGO)
    cleaner = await asyncpg.connect(migrated.url)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders.outbox'::regclass"
    try:
        async with replaying(pipeline) as replayer:
            async with cleaner.transaction():
                await cleaner.execute("LOCK TABLE orders.outbox IN ACCESS EXCLUSIVE MODE")
                step = asyncio.create_task(replayer._step())
                await eventually(lambda: pipeline.connection.fetchval(waits), 10, "a step that waits")
                await cleaner.execute("DELETE FROM orders.outbox WHERE event_id = $1", events[0].event_id)
                await cleaner.execute(
                    "INSERT INTO orders.outbox_partitions (partition, opened_at, closed_at, published_at, dropped_at)"
                    " VALUES ($1, now(), now(), now(), now())",
                    NO_PARTITION,
                )
            await step
        assert (await how(pipeline, replay_id))["state"] == "FAILED"
    finally:
        await cleaner.close()
        await pipeline.connection.execute("DELETE FROM orders.outbox_partitions WHERE partition = $1", NO_PARTITION)


async def test_replica_without_leadership_publishes_nothing(pipeline: Pipeline) -> None:
    await published(pipeline, [Event(order_in(0), 1)])
    replay_id = await start(pipeline, from_at=LONG_AGO)
    await pipeline.connection.execute(
        "INSERT INTO relay.duties (duty, holder, lease_until) VALUES ($1, 'other', 'infinity')", LEADERSHIP
    )
    async with replaying(pipeline) as replayer:
        await replayer._step()
        assert (await how(pipeline, replay_id))["events"] == 0
        await pipeline.connection.execute("UPDATE relay.duties SET lease_until = '-infinity'")
        await replayer._step()
        assert (await how(pipeline, replay_id))["events"] == 1


async def test_stopped_replica_releases_the_leadership(pipeline: Pipeline) -> None:
    await published(pipeline, [Event(order_in(0), 1)])
    await start(pipeline, from_at=LONG_AGO)
    await pipeline.connection.execute("UPDATE orders.outbox SET status = 'PENDING', sent_at = NULL")  # to continue
    async with replaying(pipeline, kafka_timeout_seconds=60) as replayer, running(replayer):
        await eventually(lambda: pipeline.connection.fetchval(LEASE, LEADERSHIP), 10, "a leader")
    assert not await pipeline.connection.fetchval(LEASE, LEADERSHIP)


async def test_replica_stops_normally_while_its_database_is_down(pipeline: Pipeline) -> None:
    await start(pipeline, from_at=LONG_AGO)
    async with replaying(pipeline) as replayer:
        await replayer._step()
        await pipeline.connection.execute("ALTER TABLE relay.duties RENAME TO away")
        try:
            await replayer._give_up()
        finally:
            await pipeline.connection.execute("ALTER TABLE relay.away RENAME TO duties")


async def test_each_replay_goes_into_its_own_topic_with_its_own_id(pipeline: Pipeline) -> None:
    await published(pipeline, [Event(order_in(0), 1)])
    topics = [f"{pipeline.topic}-{name}" for name in ("one", "two")]
    replays = [await start(pipeline, topic, from_at=LONG_AGO) for topic in topics]
    async with replaying(pipeline) as replayer:
        for _ in replays:
            await replayer._step()
    for topic, replay_id in zip(topics, replays, strict=True):
        async with pipeline.reader(topic) as reader:
            assert [header(record, "ce_replayid") for record in await reader.to_the_end()] == [str(replay_id)]


@pytest.mark.parametrize("of_order", [True, False])
async def test_window_ends_before_an_event_that_still_waits(pipeline: Pipeline, *, of_order: bool) -> None:
    order_id = order_in(0)
    events = await published(pipeline, [Event(order_id, sequence) for sequence in (1, 2, 3, 4)])
    await start(pipeline, **{"order_id": order_id} if of_order else {"from_at": LONG_AGO})
    await pipeline.connection.execute(
        "UPDATE orders.outbox SET status = 'PENDING', sent_at = NULL WHERE event_id = $1", events[2].event_id
    )
    async with replaying(pipeline) as replayer:
        await replayer._step()
        assert await records(pipeline) == expected(events[:2])


@pytest.mark.parametrize("of_order", [True, False])
async def test_window_is_bounded_in_bytes_and_never_empty(pipeline: Pipeline, *, of_order: bool) -> None:
    order_id = order_in(0)
    await published(pipeline, [Event(order_id, sequence, payload=b"x" * 100) for sequence in (1, 2, 3)])
    await start(pipeline, **{"order_id": order_id} if of_order else {"from_at": LONG_AGO})
    async with operating(pipeline) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        for bytes_max, count in ((250, 2), (10, 1)):
            window = await replay_store.replay_window(connection, found, events_max=10, bytes_max=bytes_max)
            assert len(window.wanted) == count


@pytest.mark.parametrize("of_order", [True, False])
async def test_window_leaves_out_skipped_and_later_events(pipeline: Pipeline, *, of_order: bool) -> None:
    order_id = order_in(0)
    events = await published(pipeline, [Event(order_id, sequence) for sequence in (1, 2, 3)])
    await start(pipeline, **{"order_id": order_id} if of_order else {"from_at": LONG_AGO})
    await pipeline.connection.execute(
        "UPDATE orders.outbox SET status = 'SKIPPED', sent_at = NULL WHERE event_id = $1", events[1].event_id
    )
    await published_later(pipeline, Event(order_id, 4))
    async with operating(pipeline) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        window = await replay_store.replay_window(connection, found, events_max=10, bytes_max=10_000)
        assert [event.sequence for event in window.wanted] == [1, 3]
        assert window.position == found.up_to


async def published_later(pipeline: Pipeline, event: Event) -> None:
    await write(pipeline.connection, [event], notify=False)
    await pipeline.connection.execute(
        "UPDATE orders.outbox SET status = 'SENT', sent_at = now() WHERE event_id = $1", event.event_id
    )


async def test_overtaken_or_stopped_replay_records_no_progress(pipeline: Pipeline) -> None:
    await published(pipeline, [Event(order_in(0), 1)])
    replay_id = await start(pipeline, from_at=LONG_AGO)
    async with operating(pipeline) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        for overtaken in ("position = 1", "position = 0, state = 'CANCELLED'"):
            await pipeline.connection.execute(f"UPDATE relay.replays SET {overtaken}")
            was = await how(pipeline, replay_id)
            assert not await replay_store.advance_replay(connection, found, found.up_to, 1, done=True)
            await replay_store.fail_replay(connection, found, "refused")
            assert await how(pipeline, replay_id) == was


@pytest.mark.parametrize("change", ["position = position + 1", "state = 'CANCELLED'"], ids=["overtaken", "stopped"])
async def test_replay_is_reported_done_once_and_only_if_it_is_recorded(pipeline: Pipeline, change: str) -> None:
    await published(pipeline, [Event(order_in(0), 1)])
    await start(pipeline, from_at=LONG_AGO)
    async with replaying(pipeline) as replayer, operating(pipeline) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        window = await replay_store.replay_window(connection, found, events_max=10, bytes_max=1000)
        with capture_logs() as logs:
            await replayer._note(found, replace(window, position=found.position))
            await pipeline.connection.execute(f"UPDATE relay.replays SET {change}")
            await replayer._note(found, window)
            assert logs == []
            await pipeline.connection.execute(
                "UPDATE relay.replays SET state = 'RUNNING', position = $1", found.position
            )
            await replayer._note(found, window)
            assert [entry["event"] for entry in logs] == ["replay.done"]


async def test_replay_begins_at_the_last_published_event(pipeline: Pipeline) -> None:
    (event,) = await published(pipeline, [Event(order_in(0), 1)])
    outbox_id = await pipeline.connection.fetchval("SELECT outbox_id FROM orders.outbox")
    await write(pipeline.connection, [Event(event.order_id, 2)], notify=False)
    assert (await how(pipeline, await start(pipeline, from_at=LONG_AGO)))["up_to"] == outbox_id
