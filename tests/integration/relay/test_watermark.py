"""The watermark: the time up to which every committed event is on the topic, and the offsets for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from jsonschema import Draft202012Validator

from services.relay import metrics
from services.relay.completeness import store as history_store
from services.relay.completeness.store import WatermarkAdvance
from services.relay.completeness.watermark import Watermark
from services.relay.kafka.admin import Broker
from services.relay.schemas import schema_of
from services.relay.settings import RelaySettings
from shared import connecting
from shared.background import FAILED_ROUNDS
from shared.ids import uuid7
from shared.postgres import Pool
from shared.refusals import Unavailable
from tests.infrastructure.databases import Database
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.relay.world import Event, World, header, identity, order_in, write

LEASE_SECONDS = 60.0


@pytest.fixture
async def relay_role(world: World) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(world.url)
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    yield connection
    await connection.close()


@pytest.fixture
async def writer(migrated: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection of its own, whose transactions stay open as long as the test wants."""
    connection = await asyncpg.connect(migrated.url)
    yield connection
    await connection.close()


async def step(connection: asyncpg.Connection, holder: str = "one") -> WatermarkAdvance:
    reached = await history_store.advance_watermark(connection, holder, LEASE_SECONDS, 3)
    assert reached is not None
    return reached


async def up_to(connection: asyncpg.Connection) -> datetime | None:
    return (await step(connection)).up_to


async def sent(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "UPDATE orders.outbox SET status = 'SENT', sent_at = clock_timestamp() WHERE status = 'PENDING'"
    )


async def test_event_gets_its_time_after_its_transaction_id(world: World, writer: asyncpg.Connection) -> None:
    async with writer.transaction():
        began = await writer.fetchval("SELECT now()")
        before = await world.connection.fetchval("SELECT clock_timestamp()")
        assert await writer.fetchval("SELECT pg_current_xact_id_if_assigned()") is None
        outbox_id = await Event(uuid7(), 1).insert(writer)
    occurred_at = await writer.fetchval("SELECT occurred_at FROM orders.outbox WHERE outbox_id = $1", outbox_id)
    assert began < before < occurred_at
    default = await writer.fetchval("""
        SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
        WHERE adrelid = 'orders.outbox'::regclass AND attname = 'occurred_at'
    """)
    assert default.index("pg_current_xact_id()") < default.index("clock_timestamp()")


async def test_watermark_waits_for_a_transaction_that_may_have_written_before_it(
    world: World, relay_role: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    assert await up_to(relay_role) is None, "the first step only marks"
    first = await up_to(relay_role)
    transaction = writer.transaction()
    await transaction.start()
    outbox_id = await Event(uuid7(), 1).insert(writer)
    occurred_at = await writer.fetchval("SELECT occurred_at FROM orders.outbox WHERE outbox_id = $1", outbox_id)
    # The mark before the transaction may still be closed, one after it may not, however often it is tried.
    reached = [await up_to(relay_role) for _ in range(4)]
    assert first is not None
    assert max(filter(None, reached)) < occurred_at
    await transaction.commit()
    assert [await up_to(relay_role) for _ in range(3)] == [reached[-1]] * 3, "it is pending now"
    await sent(world.connection)
    last = await up_to(relay_role), await up_to(relay_role)
    assert last[1] is not None
    assert last[1] > occurred_at


async def test_running_transaction_with_a_higher_id_also_holds_the_watermark(
    relay_role: asyncpg.Connection, writer: asyncpg.Connection, world: World
) -> None:
    """Its id is above the snapshot's xmax, the highest that has ended: that alone would not see it."""
    other = world.connection
    await up_to(relay_role)
    low, high = writer.transaction(), other.transaction()
    await low.start()
    await Event(uuid7(), 1).insert(writer)
    await high.start()
    outbox_id = await Event(uuid7(), 1).insert(other)
    occurred_at = await other.fetchval("SELECT occurred_at FROM orders.outbox WHERE outbox_id = $1", outbox_id)
    await up_to(relay_role)
    await up_to(relay_role)
    await low.rollback()
    reached = [await up_to(relay_role) for _ in range(3)]
    assert all(moment is None or moment < occurred_at for moment in reached)
    await high.rollback()
    assert (await up_to(relay_role), await up_to(relay_role))[1] > occurred_at


async def test_parked_events_do_not_hold_the_watermark_and_are_listed_up_to_a_limit(
    world: World, relay_role: asyncpg.Connection
) -> None:
    orders = sorted([order_in(0) for _ in range(5)])
    await write(world.connection, [Event(order, 1) for order in orders])
    await world.connection.execute("UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = 'x'")
    await step(relay_role)
    reached = await step(relay_role)
    assert reached.up_to is not None
    assert reached.missing_count == 5
    assert reached.missing == [{"order_id": str(order), "sequence": 1} for order in orders[:3]]
    await world.connection.execute(
        "UPDATE orders.outbox SET status = 'PENDING', parked_at = NULL, parked_reason = NULL"
    )
    assert (await step(relay_role)).up_to == reached.up_to, "given back: it holds the watermark like any other"
    await sent(world.connection)
    reached = await step(relay_role)
    assert (reached.missing, reached.missing_count) == ([], 0)


async def test_leader_keeps_leadership_until_release_or_lease_expiry(
    world: World, relay_role: asyncpg.Connection
) -> None:
    first = await step(relay_role, "one")
    assert await history_store.advance_watermark(relay_role, "two", LEASE_SECONDS, 3) is None
    await history_store.release_watermark(relay_role, "two")
    assert await history_store.advance_watermark(relay_role, "two", LEASE_SECONDS, 3) is None, "not its own to leave"
    await history_store.release_watermark(relay_role, "one")
    second = await step(relay_role, "two")
    await world.connection.execute("UPDATE relay.watermark SET lease_expires_at = now() - interval '1 second'")
    third = await step(relay_role, "one")
    assert (first.epoch, second.epoch, third.epoch) == (1, 2, 3)


async def test_new_leader_marks_again_because_ids_of_another_database_differ(
    world: World, relay_role: asyncpg.Connection
) -> None:
    await step(relay_role, "one")
    await world.connection.execute("UPDATE relay.watermark SET mark_xid = '1', lease_expires_at = '-infinity'")
    assert (await step(relay_role, "two")).up_to is None
    assert await world.connection.fetchval("SELECT mark_xid::text::bigint > 1 FROM relay.watermark")


async def test_watermark_does_not_go_back_with_the_clock(world: World, relay_role: asyncpg.Connection) -> None:
    await step(relay_role)
    await world.connection.execute("UPDATE relay.watermark SET up_to = now() + interval '1 hour'")
    ahead = await world.connection.fetchval("SELECT up_to FROM relay.watermark")
    assert [await up_to(relay_role) for _ in range(3)] == [ahead] * 3


async def test_watermark_cannot_advance_in_a_transaction_that_has_an_id(relay_role: asyncpg.Connection) -> None:
    async with relay_role.transaction():
        await relay_role.execute("SELECT pg_current_xact_id()")
        with pytest.raises(asyncpg.RaiseError):
            await step(relay_role)


SOON: dict[str, Any] = {"watermark_interval_seconds": 0.05}


async def test_reader_at_the_watermark_offsets_has_every_event_up_to_its_time(world: World) -> None:
    orders = [uuid7() for _ in range(20)]
    async with world.relay(**SOON), world.reader() as reader:
        for sequence in (1, 2, 3):
            await write(world.connection, [Event(order, sequence) for order in orders])
        await world.until_sent(60)
        last = await world.connection.fetchval("SELECT max(occurred_at) FROM orders.outbox")
        async with world.reader(f"{world.topic}.watermarks") as watermarks:

            async def beyond() -> dict[str, Any] | None:
                await watermarks.more()
                told = [json.loads(record.value) for record in watermarks.records]
                return next((one for one in told if datetime.fromisoformat(one["up_to"]) >= last), None)

            body = await eventually(beyond, 20, "a watermark beyond the last event")
            record = watermarks.records[-1]
        records = await reader.to_the_end()
    assert body is not None
    Draft202012Validator(schema_of("order.watermark.v1")).validate(body)
    within = [identity(one) for one in records if one.offset < body["partitions"][str(one.partition)]]
    assert len(set(within)) == 60
    assert (record.key, record.partition) == (world.topic.encode(), 0)
    assert header(record, "ce_type") == "order.watermark.v1"
    assert header(record, "ce_source") == "/services/relay"
    assert header(record, "ce_subject") == world.topic
    moments = [json.loads(one.value)["up_to"] for one in watermarks.records]
    assert moments == sorted(moments)


async def test_unchanged_watermark_is_announced_once_a_minute(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.relay(**SOON), world.reader(f"{world.topic}.watermarks") as watermarks:
        await watermarks.until(3)
        await moved(world, 5)
        assert len(await watermarks.to_the_end()) == 3
        monkeypatch.setattr("services.relay.completeness.watermark.IDLE_SECONDS", 0.0)
        await watermarks.until(5)


async def moved(world: World, times: int) -> None:
    """Wait until the watermark moved so many times."""
    query = "SELECT up_to FROM relay.watermark"
    for _ in range(times):
        was = await world.connection.fetchval(query)
        await eventually(partial(differs, world, query, was), 20, "the watermark to move")


async def differs(world: World, query: str, was: Any) -> bool:
    return bool(await world.connection.fetchval(query) != was)


async def test_second_replica_announces_after_the_first_stops(world: World) -> None:
    query = "SELECT holder FROM relay.watermark"
    async with world.relay(replica="b", **SOON):
        async with world.relay(replica="a", **SOON):
            await moved(world, 3)
            holder = await world.connection.fetchval(query)
            assert holder in ("a", "b")
        await moved(world, 3)
        assert await world.connection.fetchval(query) == "b"


@asynccontextmanager
async def watching(world: World, broker: Broker, **changes: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run the duty alone."""
    settings, stop = world.settings(**SOON, **changes), asyncio.Event()
    async with Pool(settings, "watermark") as pool:
        running = asyncio.create_task(Watermark(settings, pool, broker).run(stop))
        try:
            yield running
        finally:
            stop.set()
            await running


@asynccontextmanager
async def duty(world: World, **changes: Any) -> AsyncIterator[Watermark]:
    """The duty, to be led by hand."""
    settings = world.settings(**SOON, **changes)
    broker = Broker(settings, 4)
    async with Pool(settings, "watermark") as pool:
        watermark = Watermark(settings, pool, broker)
        try:
            yield watermark
        finally:
            await watermark._close()
            await broker.close()


async def watermarks(world: World) -> int:
    """How many have been announced."""
    async with world.reader(f"{world.topic}.watermarks") as reader:
        return len(await reader.to_the_end())


async def test_paused_replica_announces_nothing(world: World) -> None:
    now = asyncio.get_running_loop().time
    async with duty(world) as watermark:
        reached = WatermarkAdvance(1, datetime.now(UTC), [], 0)
        assert reached.up_to is not None
        await watermark._announce(reached, reached.up_to, now() - 0.001)
        assert await watermarks(world) == 0
        await watermark._announce(reached, reached.up_to, now() + 60)
        assert await watermarks(world) == 1


async def test_replica_without_leadership_closes_clients_and_announces_again_later(world: World) -> None:
    async with duty(world) as watermark:
        for _ in range(2):
            await watermark._once()
        assert await watermarks(world) == 1
        await world.connection.execute("UPDATE relay.watermark SET holder = 'other', lease_expires_at = 'infinity'")
        await watermark._once()
        assert (watermark._kafka, watermark._announced) == (None, None)


async def test_lease_lasts_over_the_next_slow_call(world: World) -> None:
    """It is renewed at the end of that call, which comes after a rest in proportion."""
    async with duty(world) as watermark:
        watermark._call_seconds = 100.0
        await watermark._once()
    left = "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM relay.watermark"
    assert await world.connection.fetchval(left) > 20 * 100


@pytest.mark.parametrize("trouble", ["database", "broker"])
async def test_watermark_continues_after_an_error(world: World, trouble: str) -> None:
    changes: dict[str, Any] = {"kafka_timeout_seconds": 0.5}
    if trouble == "broker":
        changes["kafka_bootstrap_servers"] = f"127.0.0.1:{free_port()}"
    broker = Broker(world.settings(**changes), 4)
    failed = FAILED_ROUNDS.labels("watermark", "transient")
    before = failed._value.get()
    async with (
        without_table(world) if trouble == "database" else nullcontext(),
        watching(world, broker, **changes) as running,
    ):

        async def twice() -> bool:
            assert not running.done(), "it has ended"
            return bool(failed._value.get() >= before + 2)

        await eventually(twice, 20, "two rounds in vain")
    await broker.close()


@asynccontextmanager
async def without_table(world: World) -> AsyncIterator[None]:
    """Make every query for the watermark fail."""
    await world.connection.execute("ALTER TABLE relay.watermark RENAME TO away")
    try:
        yield
    finally:
        await world.connection.execute("ALTER TABLE relay.away RENAME TO watermark")


async def test_stopped_replica_releases_leadership_although_its_broker_is_down(world: World) -> None:
    nowhere: dict[str, Any] = {"kafka_bootstrap_servers": f"127.0.0.1:{free_port()}", "kafka_timeout_seconds": 0.5}
    holder = "SELECT holder FROM relay.watermark"
    async with watching(world, Broker(world.settings(**nowhere), 4), **nowhere):
        await eventually(lambda: world.connection.fetchval(holder), 10, "a holder")
    assert await world.connection.fetchval(holder) is None


async def test_replica_stops_normally_while_its_database_is_down(world: World) -> None:
    async with duty(world) as watermark, without_table(world):
        await watermark._give_up()


async def test_offsets_include_a_transaction_under_way(real_world: World) -> None:
    """Committed records may stand behind it, which readers must come to."""
    async with duty(real_world) as watermark:
        await watermark._broker.ensure_topics()
        _, consumer = await watermark._open()
        open_one = AIOKafkaProducer(bootstrap_servers=real_world.kafka, transactional_id=real_world.topic)
        await open_one.start()
        try:
            await open_one.begin_transaction()
            await open_one.send_and_wait(real_world.topic, b"open", partition=0)
            assert (await watermark._offsets(consumer))["0"] == 1
        finally:
            await open_one.abort_transaction()
            await open_one.stop()


async def test_two_concurrent_advances_mark_one_time(
    world: World, relay_role: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    """The second one read the row before the first one changed it."""
    await step(relay_role)
    async with writer.transaction():
        await writer.execute("UPDATE relay.watermark SET epoch = epoch + 1")
        overtaken = asyncio.create_task(history_store.advance_watermark(relay_role, "one", LEASE_SECONDS, 3))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await eventually(lambda: world.connection.fetchval(waits), 10, "a call that waits")
    assert await overtaken is None


async def test_watermark_continues_after_a_missing_client_file(world: World, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    access: dict[str, Any] = {
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": "relay",
        "kafka_sasl_password_file": password,
    }
    broker = Broker(world.settings(), 4)
    async with watching(world, broker, **access) as running:
        password.unlink()
        await moved(world, 3)
        assert not running.done()
    await broker.close()


async def test_lag_grows_before_the_first_watermark(world: World, writer: asyncpg.Connection) -> None:
    metrics.WATERMARK_LAG.set(0)
    broker = Broker(world.settings(), 4)
    async with writer.transaction():
        await Event(uuid7(), 1).insert(writer)
        async with watching(world, broker):

            async def late() -> bool:
                return bool(metrics.WATERMARK_LAG._value.get() > 0.2)

            await eventually(late, 20, "a lag")
    assert await world.connection.fetchval("SELECT up_to FROM relay.watermark") is None


async def test_interrupted_call_gets_more_time_after_a_proportional_pause(
    world: World, writer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it walks over dead entries that an old snapshot keeps."""
    monkeypatch.setattr(connecting, "COMMAND_TIMEOUT_SECONDS", 0.3)
    settings = world.settings(kafka_bootstrap_servers="127.0.0.1:1")
    async with Pool(settings, "watermark") as pool:
        watermark = Watermark(settings, pool, Broker(settings, 4))
        for seconds in (0.3, 0.9):
            async with writer.transaction():
                await writer.execute("LOCK TABLE relay.watermark IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(Unavailable):
                    await watermark._once()
            assert seconds <= watermark._call_seconds < 2 * seconds


def test_invalid_interval_is_refused() -> None:
    common = {"database_url": "postgresql://x", "kafka_bootstrap_servers": "x:1"}
    with pytest.raises(ValueError, match="watermark_interval_seconds"):
        RelaySettings(**common, watermark_interval_seconds=0)  # type: ignore[arg-type]
