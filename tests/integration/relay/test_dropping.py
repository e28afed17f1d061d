"""A dropped producer leaves no unretrieved errors: with records in flight, waiting for a retry, or fenced."""

import asyncio
import gc
from dataclasses import replace
from typing import Any

import pytest

from services.relay.domain.events import Batch, OutboxEvent
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from tests.infrastructure.kafka_proxy import Api, Stage, all_refused
from tests.infrastructure.own_broker import ProxiedBroker
from tests.infrastructure.pipeline import Pipeline, order_in

NOT_LEADER = 6  # the client retries repeatedly


@pytest.mark.parametrize("transactional", [True, False])
async def test_dropped_producer_leaves_no_unretrieved_failure(
    pipeline: Pipeline, proxied: ProxiedBroker, *, transactional: bool
) -> None:
    refused = asyncio.Event()

    async def refuse(api: int, stage: Stage, frame: bytes) -> bytes | None:
        if (api, stage) == (Api.PRODUCE, Stage.REQUEST) and refusing:
            refused.set()
            return all_refused(frame, NOT_LEADER)
        return None

    refusing = False
    complaints = all_complaints()
    async with proxied.proxy(refuse):
        here = replace(pipeline, kafka=proxied.address)
        async with here.relay():
            await here.until_held()
        refusing = True
        await publish_in_vain(here, refused, transactional=transactional)
    await assert_none(complaints)


async def test_fenced_producer_leaves_no_unretrieved_failure(real_pipeline: Pipeline) -> None:
    async with real_pipeline.relay():
        await real_pipeline.until_held()
    settings = real_pipeline.settings()
    complaints = all_complaints()
    name = settings.shard_name(0)
    async with EventProducer(settings, name) as fenced, EventProducer(settings, name):
        with pytest.raises(BrokerFailed, match="newer producer"):
            await fenced.publish(await a_batch(real_pipeline))
    del fenced
    await assert_none(complaints)


def all_complaints() -> list[dict[str, Any]]:
    """Return the list of errors that the event loop reports from here on."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    return complaints


async def assert_none(complaints: list[dict[str, Any]]) -> None:
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def publish_in_vain(pipeline: Pipeline, refused: asyncio.Event, *, transactional: bool) -> None:
    """Send until the client retries, then drop its producer."""
    settings = pipeline.settings()
    producer = EventProducer(settings, settings.shard_name(0) if transactional else None)
    await producer.open()
    publishing = asyncio.create_task(producer.publish(await a_batch(pipeline)))
    for _ in range(3):
        refused.clear()
        await asyncio.wait_for(refused.wait(), 20)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    await producer.drop()


async def a_batch(pipeline: Pipeline) -> Batch:
    now = await pipeline.connection.fetchval("SELECT now()")
    events = [
        OutboxEvent(number, str(order_in(0)), str(order_in(0)), 1, "order.paid.v1", b"{}", None, now)
        for number in range(20)
    ]
    return Batch(0, 1, events)
