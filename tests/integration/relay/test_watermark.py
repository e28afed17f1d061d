"""The leader announces the watermark: the time up to which the topic has every committed event, and its offsets."""

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
from services.relay.completeness.store import WatermarkAdvance
from services.relay.completeness.watermark import Watermark
from services.relay.kafka.admin import Broker
from services.relay.schemas import schema_of
from services.relay.settings import RelaySettings
from shared.ids import uuid7
from shared.postgres import connecting
from shared.postgres.connections import Pool
from shared.process.tasks import FAILED_ROUNDS
from shared.refusals import Unavailable
from tests.infrastructure.pipeline import Event, Pipeline, header, identity, write
from tests.infrastructure.waiting import eventually, free_port

SOON: dict[str, Any] = {"watermark_interval_seconds": 0.05}


async def test_reader_at_the_watermark_offsets_has_every_event_up_to_its_time(pipeline: Pipeline) -> None:
    orders = [uuid7() for _ in range(20)]
    async with pipeline.relay(**SOON), pipeline.reader() as reader:
        for sequence in (1, 2, 3):
            await write(pipeline.connection, [Event(order, sequence) for order in orders])
        await pipeline.until_sent(60)
        last = await pipeline.connection.fetchval("SELECT max(occurred_at) FROM orders.outbox")
        async with pipeline.reader(f"{pipeline.topic}.watermarks") as watermarks:

            async def beyond() -> dict[str, Any] | None:
                await watermarks.more()
                announcements = [json.loads(record.value) for record in watermarks.records]
                return next((one for one in announcements if datetime.fromisoformat(one["up_to"]) >= last), None)

            body = await eventually(beyond, 20, "a watermark beyond the last event")
            record = watermarks.records[-1]
        records = await reader.to_the_end()
    assert body is not None
    Draft202012Validator(schema_of("order.watermark.v1")).validate(body)
    within = [identity(one) for one in records if one.offset < body["partitions"][str(one.partition)]]
    assert len(set(within)) == 60
    assert (record.key, record.partition) == (pipeline.topic.encode(), 0)
    assert header(record, "ce_type") == "order.watermark.v1"
    assert header(record, "ce_source") == "/services/relay"
    assert header(record, "ce_subject") == pipeline.topic
    timestamps = [json.loads(one.value)["up_to"] for one in watermarks.records]
    assert timestamps == sorted(timestamps)


async def test_unchanged_watermark_is_announced_once_a_minute(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pipeline.relay(**SOON), pipeline.reader(f"{pipeline.topic}.watermarks") as watermarks:
        await watermarks.until(3)
        await moved(pipeline, 5)
        assert len(await watermarks.to_the_end()) == 3
        monkeypatch.setattr("services.relay.completeness.watermark.IDLE_SECONDS", 0.0)
        await watermarks.until(5)


async def moved(pipeline: Pipeline, times: int) -> None:
    """Wait until the watermark has advanced `times` times."""
    query = "SELECT up_to FROM relay.watermark"
    for _ in range(times):
        was = await pipeline.connection.fetchval(query)
        await eventually(partial(differs, pipeline, query, was), 20, "the watermark to move")


async def differs(pipeline: Pipeline, query: str, was: Any) -> bool:
    return bool(await pipeline.connection.fetchval(query) != was)


async def test_second_replica_announces_after_the_first_stops(pipeline: Pipeline) -> None:
    query = "SELECT holder FROM relay.watermark"
    async with pipeline.relay(replica="b", **SOON):
        async with pipeline.relay(replica="a", **SOON):
            await moved(pipeline, 3)
            holder = await pipeline.connection.fetchval(query)
            assert holder in ("a", "b")
        await moved(pipeline, 3)
        assert await pipeline.connection.fetchval(query) == "b"


@asynccontextmanager
async def watching(pipeline: Pipeline, broker: Broker, **changes: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run the watermark alone."""
    settings, stop = pipeline.settings(**SOON, **changes), asyncio.Event()
    async with Pool(settings, "watermark") as pool:
        running = asyncio.create_task(Watermark(settings, pool, broker).run(stop))
        try:
            yield running
        finally:
            stop.set()
            await running


@asynccontextmanager
async def led_by_hand(pipeline: Pipeline, **changes: Any) -> AsyncIterator[Watermark]:
    """A watermark whose rounds the test calls."""
    settings = pipeline.settings(**SOON, **changes)
    broker = Broker(settings)
    async with Pool(settings, "watermark") as pool:
        watermark = Watermark(settings, pool, broker)
        try:
            yield watermark
        finally:
            await watermark._close()
            await broker.close()


async def watermarks(pipeline: Pipeline) -> int:
    """Return how many watermarks have been announced."""
    async with pipeline.reader(f"{pipeline.topic}.watermarks") as reader:
        return len(await reader.to_the_end())


async def test_paused_replica_announces_nothing(pipeline: Pipeline) -> None:
    now = asyncio.get_running_loop().time
    async with led_by_hand(pipeline) as watermark:
        reached = WatermarkAdvance(1, datetime.now(UTC), [], 0)
        assert reached.up_to is not None
        watermark._leadership.certain_until = now() - 0.001
        await watermark._announce(reached, reached.up_to, 4)
        assert await watermarks(pipeline) == 0
        watermark._leadership.certain_until = now() + 60
        await watermark._announce(reached, reached.up_to, 4)
        assert await watermarks(pipeline) == 1


async def test_replica_without_leadership_closes_clients_and_announces_again_later(pipeline: Pipeline) -> None:
    async with led_by_hand(pipeline) as watermark:
        for _ in range(2):
            await watermark._once()
        assert await watermarks(pipeline) == 1
        await pipeline.connection.execute("UPDATE relay.watermark SET holder = 'other', lease_expires_at = 'infinity'")
        await watermark._once()
        assert (watermark._kafka, watermark._announced) == (None, None)


async def test_lease_lasts_over_the_next_slow_call(pipeline: Pipeline) -> None:
    """The lease is renewed at the end of the slow call; the next call follows after a proportional pause."""
    async with led_by_hand(pipeline) as watermark:
        watermark._call_seconds = 100.0
        await watermark._once()
    left = "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM relay.watermark"
    assert await pipeline.connection.fetchval(left) > 20 * 100


@pytest.mark.parametrize("fault", ["database", "broker"])
async def test_watermark_continues_after_an_error(pipeline: Pipeline, fault: str) -> None:
    changes: dict[str, Any] = {"kafka_timeout_seconds": 0.5}
    if fault == "broker":
        changes["kafka_bootstrap_servers"] = f"127.0.0.1:{free_port()}"
    broker = Broker(pipeline.settings(**changes))
    failed = FAILED_ROUNDS.labels("watermark", "transient")
    before = failed._value.get()
    async with (
        without_table(pipeline) if fault == "database" else nullcontext(),
        watching(pipeline, broker, **changes) as running,
    ):

        async def twice() -> bool:
            assert not running.done(), "it has ended"
            return bool(failed._value.get() >= before + 2)

        await eventually(twice, 20, "two failed rounds")
    await broker.close()


@asynccontextmanager
async def without_table(pipeline: Pipeline) -> AsyncIterator[None]:
    """Make every query for the watermark fail."""
    await pipeline.connection.execute("ALTER TABLE relay.watermark RENAME TO away")
    try:
        yield
    finally:
        await pipeline.connection.execute("ALTER TABLE relay.away RENAME TO watermark")


async def test_stopped_replica_releases_leadership_although_its_broker_is_down(pipeline: Pipeline) -> None:
    nowhere: dict[str, Any] = {"kafka_bootstrap_servers": f"127.0.0.1:{free_port()}", "kafka_timeout_seconds": 0.5}
    holder = "SELECT holder FROM relay.watermark"
    async with watching(pipeline, Broker(pipeline.settings(**nowhere)), **nowhere):
        await eventually(lambda: pipeline.connection.fetchval(holder), 10, "a holder")
    assert await pipeline.connection.fetchval(holder) is None


async def test_replica_stops_normally_while_its_database_is_down(pipeline: Pipeline) -> None:
    async with led_by_hand(pipeline) as watermark, without_table(pipeline):
        watermark._leadership._may_hold = True
        await watermark._give_up()


async def test_offsets_include_an_open_transaction(real_pipeline: Pipeline) -> None:
    """Committed records may come after it, and readers must reach them."""
    async with led_by_hand(real_pipeline) as watermark:
        await watermark._broker.ensure_topics(4)
        _, consumer = await watermark._open()
        open_one = AIOKafkaProducer(bootstrap_servers=real_pipeline.kafka, transactional_id=real_pipeline.topic)
        await open_one.start()
        try:
            await open_one.begin_transaction()
            await open_one.send_and_wait(real_pipeline.topic, b"open", partition=0)
            assert (await watermark._offsets(consumer))["0"] == 1
        finally:
            await open_one.abort_transaction()
            await open_one.stop()


async def test_watermark_continues_after_a_missing_client_file(pipeline: Pipeline, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    access: dict[str, Any] = {
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": "relay",
        "kafka_sasl_password_file": password,
    }
    broker = Broker(pipeline.settings())
    async with watching(pipeline, broker, **access) as running:
        password.unlink()
        await moved(pipeline, 3)
        assert not running.done()
    await broker.close()


async def test_lag_grows_before_the_first_watermark(pipeline: Pipeline, writer: asyncpg.Connection) -> None:
    metrics.WATERMARK_LAG.set(0)
    broker = Broker(pipeline.settings())
    async with writer.transaction():
        await Event(uuid7(), 1).insert(writer)
        async with watching(pipeline, broker):

            async def late() -> bool:
                return bool(metrics.WATERMARK_LAG._value.get() > 0.2)

            await eventually(late, 20, "a lag")
    assert await pipeline.connection.fetchval("SELECT up_to FROM relay.watermark") is None


async def test_lag_grows_while_nothing_can_be_announced(pipeline: Pipeline) -> None:
    metrics.WATERMARK_LAG.set(0)
    broker = Broker(pipeline.settings())
    broker.view.refused = "the topic is compacted"
    async with watching(pipeline, broker):

        async def late() -> bool:
            # Rounds that fail have pauses of 5 s, and the database's watermark is as far behind.
            return bool(metrics.WATERMARK_LAG._value.get() > 8)

        await eventually(late, 40, "a lag")
        broker.view.refused = None

        async def near() -> bool:
            return bool(metrics.WATERMARK_LAG._value.get() < 1)

        await eventually(near, 20, "no lag")
    await broker.close()


async def test_interrupted_call_gets_more_time_after_a_proportional_pause(
    pipeline: Pipeline, writer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is slow, as if it read past dead index entries that an old snapshot keeps."""
    monkeypatch.setattr(connecting, "COMMAND_TIMEOUT_SECONDS", 0.3)
    settings = pipeline.settings(kafka_bootstrap_servers="127.0.0.1:1")
    async with Pool(settings, "watermark") as pool:
        watermark = Watermark(settings, pool, Broker(settings))
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
