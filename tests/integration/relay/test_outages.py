"""An outage of the broker or the database delays events, and loses or repeats none."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.relay import api
from services.relay.kafka.client import STOP_SECONDS, BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.process import Relay
from shared.postgres import connecting
from shared.postgres.connections import Session
from shared.refusals import Unavailable
from tests.infrastructure.broker import wait_for
from tests.infrastructure.databases import Database
from tests.infrastructure.outbox_writers import assert_in_sequence, progress, writing
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.pipeline import Event, Pipeline, expected, identity, order_in, write
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_port

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1"


@pytest.fixture(scope="module")
def own_broker(reaper: Reaper) -> Iterator[OwnBroker]:
    broker = OwnBroker(reaper)
    broker.start()
    yield broker
    broker.kill()


async def failing(relay: Relay, check: str) -> bool:
    """Return whether /readyz would name this check."""
    async with Session(relay._pool._settings, "relay readiness") as readiness:
        try:
            await api.checks(readiness, relay.broker, relay.publishers)[check]()
        except (BrokerFailed, Unavailable, api.NotPublishing):
            return True
        return False


async def passing(relay: Relay, check: str) -> bool:
    return not await failing(relay, check)


def start_embedded_broker(port: int, reaper: Reaper) -> None:
    command = [sys.executable, "-m", "deploy.local.broker", "--port", str(port)]
    reaper.process(subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[3]))
    wait_for(f"127.0.0.1:{port}")


async def test_events_wait_for_a_broker_that_starts_later(pipeline: Pipeline, reaper: Reaper) -> None:
    port = free_port()
    away = replace(pipeline, kafka=f"127.0.0.1:{port}")
    event = Event(order_in(0), 1)
    async with away.relay(kafka_timeout_seconds=1) as relay:
        await write(pipeline.connection, [event])
        await eventually(lambda: failing(relay, "broker"), 5, "an unready broker")
        await eventually(lambda: failing(relay, "shards"), 10, "unready shards")
        assert await passing(relay, "database")
        await asyncio.to_thread(start_embedded_broker, port, reaper)
        async with away.reader() as reader:
            assert [identity(record) for record in await reader.until(1)] == expected([event])
        await pipeline.until_sent(1)
        await eventually(lambda: passing(relay, "broker"), 5, "a ready broker")
        await eventually(lambda: passing(relay, "shards"), 10, "ready shards")
    assert await pipeline.connection.fetchval("SELECT count(*) FROM orders.outbox WHERE status = 'PARKED'") == 0


async def test_a_broker_that_is_killed_and_comes_back_loses_and_repeats_nothing(
    pipeline: Pipeline, migrated: Database, own_broker: OwnBroker
) -> None:
    killed = replace(pipeline, kafka=own_broker.address)
    async with killed.relay(batch_events=10, kafka_timeout_seconds=2) as relay:
        await killed.until_held()
        async with writing(migrated, 3) as events:
            await progress(killed, 20)
            own_broker.kill()
            await eventually(lambda: failing(relay, "broker"), 10, "an unready broker")
            await asyncio.to_thread(own_broker.start)
            await eventually(lambda: passing(relay, "shards"), 30, "ready shards")
        await killed.until_sent(len(events), seconds=40)
    async with killed.reader() as reader:
        assert_in_sequence(killed, await reader.to_the_end(), events)
    assert set(await killed.statuses()) == {"SENT"}


async def test_a_broker_that_hangs_past_every_time_limit_loses_and_repeats_nothing(
    pipeline: Pipeline, migrated: Database, own_broker: OwnBroker
) -> None:
    hanging = replace(pipeline, kafka=own_broker.address)
    async with hanging.relay(batch_events=10, kafka_timeout_seconds=1) as relay:
        await hanging.until_held()
        async with writing(migrated, 4) as events:
            await progress(hanging, 20)
            own_broker.pause()
            try:
                await eventually(lambda: failing(relay, "shards"), 30, "unready shards")
            finally:
                own_broker.wake()
        await hanging.until_sent(len(events), seconds=40)
    async with hanging.reader() as reader:
        assert_in_sequence(hanging, await reader.to_the_end(), events)


async def test_producer_of_a_hanging_broker_is_dropped_within_seconds(
    pipeline: Pipeline, own_broker: OwnBroker
) -> None:
    hanging = replace(pipeline, kafka=own_broker.address)
    async with hanging.relay():
        await hanging.until_held()
    producer = EventProducer(hanging.settings(), None)
    await producer.open()
    await producer._producer.send_and_wait(hanging.topic, b"first")  # gets the producer id
    before = asyncio.all_tasks()
    own_broker.pause()
    try:
        sending = asyncio.create_task(producer._producer.send_and_wait(hanging.topic, b"never"))
        done, _ = await asyncio.wait({sending}, timeout=1)
        assert not done
        started = asyncio.get_running_loop().time()
        await producer.drop()
        assert asyncio.get_running_loop().time() - started < 2 * STOP_SECONDS
        assert isinstance((await asyncio.gather(sending, return_exceptions=True))[0], Exception)
    finally:
        own_broker.wake()
    assert asyncio.all_tasks() - before <= {sending}


async def test_relay_with_a_hanging_broker_stops_in_time(pipeline: Pipeline, own_broker: OwnBroker) -> None:
    hanging = replace(pipeline, kafka=own_broker.address)
    try:
        async with hanging.relay() as relay:
            await hanging.until_held()
            own_broker.pause()
            await write(pipeline.connection, [Event(order_in(shard), 1) for shard in range(4)])
            await eventually(lambda: none_idle(relay), 5, "every shard publishing")
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < 6
    finally:
        own_broker.wake()


async def none_idle(relay: Relay) -> bool:
    return not any(publisher.idle for publisher in relay.publishers())


@pytest.mark.parametrize("connections", ["relay%", "relay wakeup", "relay shard%"])
async def test_database_connections_that_are_cut_are_opened_again(
    pipeline: Pipeline, migrated: Database, connections: str
) -> None:
    async with pipeline.relay(batch_events=10) as relay:
        await pipeline.until_held()
        async with writing(migrated, 5) as events:
            for _ in range(4):
                await progress(pipeline, 20)
                await pipeline.connection.execute(TERMINATE, connections)
        await pipeline.until_sent(len(events))
        await eventually(lambda: passing(relay, "database"), 5, "a ready database")
    async with pipeline.reader() as reader:
        assert_in_sequence(pipeline, await reader.to_the_end(), events, once=pipeline.real_broker)


@pytest.fixture
async def slow_claims(pipeline: Pipeline) -> AsyncIterator[None]:
    """Each claim takes 0.8 s, as if it read past dead index entries that an old snapshot keeps."""
    await pipeline.connection.execute("""
        CREATE FUNCTION relay.slowly() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(0.8); RETURN new; END $$;
        CREATE TRIGGER slowly BEFORE UPDATE ON relay.shards FOR EACH ROW
        WHEN (old.outbox_ids = '{}' AND new.outbox_ids <> '{}') EXECUTE FUNCTION relay.slowly();
    """)
    yield
    await pipeline.connection.execute("DROP FUNCTION relay.slowly CASCADE")


@pytest.mark.usefixtures("slow_claims")
async def test_slow_claims_get_a_longer_time_limit_until_they_succeed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "COMMAND_TIMEOUT_SECONDS", 0.5)
    event = Event(order_in(0), 1)
    async with pipeline.relay(), pipeline.reader() as reader:
        await write(pipeline.connection, [event])
        await pipeline.until_sent(1)
        assert [identity(record) for record in await reader.to_the_end()] == expected([event])


async def test_notifications_arrive_again_after_the_listening_connection_was_cut(pipeline: Pipeline) -> None:
    listening = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'relay wakeup' AND pid <> ALL($1)"
    pids = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'relay wakeup'"
    async with pipeline.relay(poll_interval_seconds=1, lease_seconds=60):
        await pipeline.until_held()
        old = await pipeline.connection.fetchval(pids)
        await pipeline.connection.execute(TERMINATE, "relay wakeup")
        await eventually(lambda: pipeline.connection.fetchval(listening, old), 10, "a new listener")
        await write(pipeline.connection, [Event(order_in(1), 1)])
        await pipeline.until_sent(1, seconds=5)
