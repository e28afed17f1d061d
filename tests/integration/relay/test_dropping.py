"""A producer that is dropped leaves nothing behind to report: with records under way, waiting for a try, or fenced."""

import asyncio
import gc
from dataclasses import replace
from typing import Any

import pytest

from services.relay.domain.events import Batch, OutboxEvent
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer, opened
from tests.infrastructure.kafka_proxy import Api, KafkaProxy, Moment, all_refused
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port
from tests.integration.relay.own_broker import OwnBroker
from tests.integration.relay.world import World, order_in

NOT_LEADER = 6  # the client tries again and again


@pytest.mark.parametrize("transactional", [True, False])
async def test_dropped_producer_leaves_no_unretrieved_failure(
    world: World, reaper: Reaper, *, transactional: bool
) -> None:
    bound, advertised = free_port(), free_port()
    properties = {
        "listeners": f"PROXIED://127.0.0.1:{bound}",
        "advertised.listeners": f"PROXIED://127.0.0.1:{advertised}",
        "listener.security.protocol.map": "PROXIED:PLAINTEXT",
    }
    broker = OwnBroker(reaper, properties)
    broker.start()
    refused = asyncio.Event()

    async def refuse(api: int, moment: Moment, frame: bytes) -> bytes | None:
        if (api, moment) == (Api.PRODUCE, Moment.ASKED) and refusing:
            refused.set()
            return all_refused(frame, NOT_LEADER)
        return None

    refusing = False
    complaints = all_complaints()
    try:
        async with KafkaProxy(advertised, bound, refuse):
            here = replace(world, kafka=f"127.0.0.1:{advertised}")
            async with here.relay():
                await here.until_held()
            refusing = True
            await publish_in_vain(here, refused, transactional=transactional)
    finally:
        broker.kill()
    await assert_none(complaints)


async def test_fenced_producer_leaves_no_unretrieved_failure(real_world: World) -> None:
    async with real_world.relay():
        await real_world.until_held()
    settings = real_world.settings()
    complaints = all_complaints()
    async with opened(settings, settings.shard_name(0)) as fenced, opened(settings, settings.shard_name(0)):
        with pytest.raises(BrokerFailed, match="newer producer"):
            await fenced.publish(await a_batch(real_world))
    del fenced
    await assert_none(complaints)


def all_complaints() -> list[dict[str, Any]]:
    """Return what the event loop complains of from here on."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    return complaints


async def assert_none(complaints: list[dict[str, Any]]) -> None:
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def publish_in_vain(world: World, refused: asyncio.Event, *, transactional: bool) -> None:
    """Send until the client tries again, then drop its producer."""
    settings = world.settings()
    producer = EventProducer(settings, settings.shard_name(0) if transactional else None)
    await producer.open()
    publishing = asyncio.create_task(producer.publish(await a_batch(world)))
    for _ in range(3):
        refused.clear()
        await asyncio.wait_for(refused.wait(), 20)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    await producer.drop()


async def a_batch(world: World) -> Batch:
    now = await world.connection.fetchval("SELECT now()")
    events = [
        OutboxEvent(number, str(order_in(0)), str(order_in(0)), 1, "order.paid.v1", b"{}", None, now)
        for number in range(20)
    ]
    return Batch(0, 1, events)
