"""The replay worker, step by step: after errors, after a pause, and beside another replica."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from services.relay.kafka.admin import Broker
from services.relay.replay import store as replay_store
from services.relay.replay import worker as replay
from services.relay.replay.worker import DUTY, ReplayWorker
from shared.background import FAILED_ROUNDS
from shared.postgres import Pool
from tests.infrastructure.databases import Database
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.relay.operators import NO_PARTITION, operating
from tests.integration.relay.test_replay import LONG_AGO, how, start, until
from tests.integration.relay.world import Event, World, expected, header, identity, order_in, write

LEASE = "SELECT lease_until > clock_timestamp() FROM relay.duties WHERE duty = $1"


@pytest.fixture(autouse=True)
async def no_duty(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "IDLE_SECONDS", 0.01)
    await world.connection.execute("DELETE FROM relay.duties")


async def published(world: World, events: Sequence[Event]) -> list[Event]:
    """Write events as those that a relay has published."""
    await write(world.connection, events, notify=False)
    await world.connection.execute("UPDATE orders.outbox SET status = 'SENT', sent_at = now()")
    return list(events)


@asynccontextmanager
async def replaying(world: World, **changes: object) -> AsyncIterator[ReplayWorker]:
    """The duty of a replica that does nothing else."""
    settings = world.settings(**changes)
    broker = Broker(settings, 4)
    async with Pool(settings, "replay") as pool:
        replayer = ReplayWorker(settings, pool, broker)
        try:
            yield replayer
        finally:
            await replayer._give_up()
            await broker.close()


@asynccontextmanager
async def running(replayer: ReplayWorker) -> AsyncIterator["asyncio.Task[None]"]:
    """Run it, and stop it at the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(replayer.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await task


async def records(world: World, topic: str = "") -> list[tuple[str, int, str]]:
    """What is on the topic of a replay."""
    async with world.reader(topic or f"{world.topic}-again") as reader:
        return [identity(record) for record in await reader.to_the_end()]


async def test_paused_replica_publishes_no_step(world: World) -> None:
    events = await published(world, [Event(order_in(0), 1)])
    await start(world, from_at=LONG_AGO)
    now = asyncio.get_running_loop().time
    async with replaying(world) as replayer, operating(world) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        window = await replay_store.replay_window(connection, found, events_max=10, bytes_max=1000)
        assert not await replayer._publish(found, window, now() - 0.001)
        assert await records(world) == []
        assert await replayer._publish(found, window, now() + 60)
        assert await records(world) == expected(events)


@pytest.mark.parametrize(
    ("trouble", "mended", "cause"),
    [
        ("relay.duties RENAME TO away", "relay.away RENAME TO duties", "transient"),
        ("relay.replays RENAME up_to TO away", "relay.replays RENAME away TO up_to", "bug"),
    ],
    ids=["database", "bug"],
)
async def test_replay_continues_after_an_error(world: World, trouble: str, mended: str, cause: str) -> None:
    await published(world, [Event(order_in(0), 1)])
    replay_id = await start(world, from_at=LONG_AGO)
    await world.connection.execute(f"ALTER TABLE {trouble}")
    try:
        async with replaying(world) as replayer, running(replayer) as task:
            await eventually(failing(task, cause), 10, "a step in vain")
            await world.connection.execute(f"ALTER TABLE {mended}")
            await until(world, replay_id, "DONE")
    finally:
        with suppress(asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):  # it is mended
            await world.connection.execute(f"ALTER TABLE {mended}")


async def test_replay_continues_after_an_outage_of_the_broker(world: World) -> None:
    await published(world, [Event(order_in(0), 1)])
    await start(world, from_at=LONG_AGO)
    nowhere = {"kafka_bootstrap_servers": f"127.0.0.1:{free_port()}", "kafka_timeout_seconds": 0.5}
    async with replaying(world, **nowhere) as replayer, running(replayer) as task:
        await eventually(failing(task, "transient", rounds=2), 10, "two steps in vain")


def failing(task: "asyncio.Task[None]", cause: str, rounds: int = 1) -> Callable[[], Awaitable[bool]]:
    """Return what tells whether so many rounds of the task have failed from now on."""
    counter = FAILED_ROUNDS.labels("replay", cause)
    before = counter._value.get()

    async def failed() -> bool:
        assert not task.done(), "it has ended"
        return bool(counter._value.get() >= before + rounds)

    return failed


async def test_replay_waits_for_an_event_that_is_published_again(world: World) -> None:
    await published(world, [Event(order_in(0), 1)])
    replay_id = await start(world, from_at=LONG_AGO)
    await world.connection.execute("UPDATE orders.outbox SET status = 'PENDING', sent_at = NULL")
    async with replaying(world) as replayer:
        for _ in range(2):
            await replayer._step()
        assert (await how(world, replay_id))["state"] == "RUNNING"
        await world.connection.execute("UPDATE orders.outbox SET status = 'SENT', sent_at = now()")
        await replayer._step()
        assert (await how(world, replay_id))["state"] == "DONE"
    assert (await how(world, replay_id))["events"] == 1


async def test_events_removed_during_a_step_fail_the_replay(world: World, migrated: Database) -> None:
    """They were not lost when the step began, and its window does not have them."""
    events = await published(world, [Event(order_in(0), 1)])
    replay_id = await start(world, from_at=LONG_AGO)
    cleaner = await asyncpg.connect(migrated.url)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders.outbox'::regclass"
    try:
        async with replaying(world) as replayer:
            async with cleaner.transaction():
                await cleaner.execute("LOCK TABLE orders.outbox IN ACCESS EXCLUSIVE MODE")
                step = asyncio.create_task(replayer._step())
                await eventually(lambda: world.connection.fetchval(waits), 10, "a step that waits")
                await cleaner.execute("DELETE FROM orders.outbox WHERE event_id = $1", events[0].event_id)
                await cleaner.execute(
                    "INSERT INTO orders.outbox_partitions (partition, opened_at, closed_at, published_at, dropped_at)"
                    " VALUES ($1, now(), now(), now(), now())",
                    NO_PARTITION,
                )
            await step
        assert (await how(world, replay_id))["state"] == "FAILED"
    finally:
        await cleaner.close()
        await world.connection.execute("DELETE FROM orders.outbox_partitions WHERE partition = $1", NO_PARTITION)


async def test_replica_without_leadership_publishes_nothing(world: World) -> None:
    await published(world, [Event(order_in(0), 1)])
    replay_id = await start(world, from_at=LONG_AGO)
    await world.connection.execute(
        "INSERT INTO relay.duties (duty, holder, lease_until) VALUES ($1, 'other', 'infinity')", DUTY
    )
    async with replaying(world) as replayer:
        await replayer._step()
        assert (await how(world, replay_id))["events"] == 0
        await world.connection.execute("UPDATE relay.duties SET lease_until = '-infinity'")
        await replayer._step()
        assert (await how(world, replay_id))["events"] == 1


async def test_stopped_replica_releases_the_leadership(world: World) -> None:
    await published(world, [Event(order_in(0), 1)])
    await start(world, from_at=LONG_AGO)
    await world.connection.execute("UPDATE orders.outbox SET status = 'PENDING', sent_at = NULL")  # so it goes on
    async with replaying(world, kafka_timeout_seconds=60) as replayer, running(replayer):
        await eventually(lambda: world.connection.fetchval(LEASE, DUTY), 10, "a replica with the duty")
    assert not await world.connection.fetchval(LEASE, DUTY)


async def test_replica_stops_normally_while_its_database_is_down(world: World) -> None:
    await start(world, from_at=LONG_AGO)
    async with replaying(world) as replayer:
        await replayer._step()
        await world.connection.execute("ALTER TABLE relay.duties RENAME TO away")
        try:
            await replayer._give_up()
        finally:
            await world.connection.execute("ALTER TABLE relay.away RENAME TO duties")


async def test_each_replay_goes_into_its_own_topic_with_its_own_id(world: World) -> None:
    await published(world, [Event(order_in(0), 1)])
    topics = [f"{world.topic}-{name}" for name in ("one", "two")]
    replays = [await start(world, topic, from_at=LONG_AGO) for topic in topics]
    async with replaying(world) as replayer:
        for _ in replays:
            await replayer._step()
    for topic, replay_id in zip(topics, replays, strict=True):
        async with world.reader(topic) as reader:
            assert [header(record, "ce_replayid") for record in await reader.to_the_end()] == [str(replay_id)]


@pytest.mark.parametrize("of_order", [True, False])
async def test_window_ends_before_an_event_that_still_waits(world: World, *, of_order: bool) -> None:
    order_id = order_in(0)
    events = await published(world, [Event(order_id, sequence) for sequence in (1, 2, 3, 4)])
    await start(world, **{"order_id": order_id} if of_order else {"from_at": LONG_AGO})
    await world.connection.execute(
        "UPDATE orders.outbox SET status = 'PENDING', sent_at = NULL WHERE event_id = $1", events[2].event_id
    )
    async with replaying(world) as replayer:
        await replayer._step()
        assert await records(world) == expected(events[:2])


@pytest.mark.parametrize("of_order", [True, False])
async def test_window_is_bounded_in_bytes_and_never_empty(world: World, *, of_order: bool) -> None:
    order_id = order_in(0)
    await published(world, [Event(order_id, sequence, payload=b"x" * 100) for sequence in (1, 2, 3)])
    await start(world, **{"order_id": order_id} if of_order else {"from_at": LONG_AGO})
    read = replay_store.replay_window_of_order if of_order else replay_store.replay_window
    async with operating(world) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        for bytes_max, count in ((250, 2), (10, 1)):
            window = await read(connection, found, events_max=10, bytes_max=bytes_max)
            assert len(window.wanted) == count


@pytest.mark.parametrize("of_order", [True, False])
async def test_window_leaves_out_skipped_and_later_events(world: World, *, of_order: bool) -> None:
    order_id = order_in(0)
    events = await published(world, [Event(order_id, sequence) for sequence in (1, 2, 3)])
    await start(world, **{"order_id": order_id} if of_order else {"from_at": LONG_AGO})
    await world.connection.execute(
        "UPDATE orders.outbox SET status = 'SKIPPED', sent_at = NULL WHERE event_id = $1", events[1].event_id
    )
    await published_later(world, Event(order_id, 4))
    read = replay_store.replay_window_of_order if of_order else replay_store.replay_window
    async with operating(world) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        window = await read(connection, found, events_max=10, bytes_max=10_000)
        assert [event.sequence for event in window.wanted] == [1, 3]
        assert window.position == found.up_to


async def published_later(world: World, event: Event) -> None:
    await write(world.connection, [event], notify=False)
    await world.connection.execute(
        "UPDATE orders.outbox SET status = 'SENT', sent_at = now() WHERE event_id = $1", event.event_id
    )


async def test_overtaken_or_stopped_replay_records_no_progress(world: World) -> None:
    await published(world, [Event(order_in(0), 1)])
    replay_id = await start(world, from_at=LONG_AGO)
    async with operating(world) as pool, pool.connection() as connection:
        found = await replay_store.next_replay(connection)
        assert found is not None
        for overtaken in ("position = 1", "position = 0, state = 'CANCELLED'"):
            await world.connection.execute(f"UPDATE relay.replays SET {overtaken}")
            was = await how(world, replay_id)
            assert not await replay_store.advance_replay(connection, found, found.up_to, 1, done=True)
            await replay_store.fail_replay(connection, found, "refused")
            assert await how(world, replay_id) == was


async def test_replay_begins_at_what_was_published_last(world: World) -> None:
    (event,) = await published(world, [Event(order_in(0), 1)])
    outbox_id = await world.connection.fetchval("SELECT outbox_id FROM orders.outbox")
    await write(world.connection, [Event(event.order_id, 2)], notify=False)
    assert (await how(world, await start(world, from_at=LONG_AGO)))["up_to"] == outbox_id
