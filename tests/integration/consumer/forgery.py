"""Records that look like the relay's but are not in its history, and the consumer's names for them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aiohttp

from shared.ids import uuid7
from tests.infrastructure.pipeline import Pipeline, producing
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import LONG_AGO, OrderEvent, Process


@dataclass(frozen=True, slots=True)
class Forged:
    """A record that somebody else than the relay publishes."""

    event_id: UUID
    order_id: UUID
    sequence: int
    name: str
    payload: bytes
    occurred_at: datetime
    partition: int | None = None

    async def send(self, producer: Any, topic: str) -> None:
        """Publish the record."""
        headers = {
            "ce_specversion": b"1.0",
            "ce_id": str(self.event_id).encode(),
            "ce_type": f"order.{self.name}.v1".encode(),
            "ce_time": self.occurred_at.isoformat().encode(),
            "ce_subject": str(self.order_id).encode(),
            "ce_sequence": b"%020d" % self.sequence,
        }
        key = str(self.order_id).encode()
        await producer.send_and_wait(topic, self.payload, key, self.partition, headers=list(headers.items()))


def forged(event: OrderEvent, **changes: Any) -> Forged:
    """Return a refund of the order after this event, at a time whose minute is closed; with changes."""
    refund = replace(event, name="refunded", event_id=uuid7(), sequence=event.sequence + 1)
    at = datetime.now(UTC) - LONG_AGO
    own = Forged(refund.event_id, refund.order_id, refund.sequence, refund.name, refund.payload, at)
    return replace(own, **changes)


async def send(pipeline: Pipeline, *records: Forged) -> None:
    async with producing(pipeline.kafka) as producer:
        for record in records:
            await record.send(producer, pipeline.topic)


async def named(consumer: Process, *records: Forged) -> list[dict[str, Any]]:
    """Return the forged events that a consumer names, once all of these are among them."""

    async def all_named() -> list[dict[str, Any]] | None:
        try:
            body = (await consumer.call("GET", "/v1/completeness")).body
        except aiohttp.ClientConnectionError:  # it doesn't listen yet
            return None
        found = {(one["event_id"], one["order_id"], one["sequence"]) for one in body["forged"]}
        unnamed.clear()
        unnamed.update(wanted - found)
        return None if unnamed else body["forged"]

    wanted = {(str(one.event_id), str(one.order_id), one.sequence) for one in records}
    unnamed = set(wanted)
    try:
        found = await eventually(all_named, 30, "the forged events by name")
    except AssertionError:
        raise AssertionError(f"not named: {unnamed}") from None
    assert found is not None
    ids = {str(one.event_id) for one in records}
    await consumer.logged("event.forged", lambda lines: {line["event_id"] for line in lines} >= ids)
    return found


async def sent_in_transaction(pipeline: Pipeline, records: Sequence[Forged], *, commit: bool) -> None:
    async with producing(pipeline.kafka, transactional_id=str(uuid7())) as producer:
        await producer.begin_transaction()
        await asyncio.gather(*(record.send(producer, pipeline.topic) for record in records))
        await (producer.commit_transaction() if commit else producer.abort_transaction())


async def announce(pipeline: Pipeline, producer: Any, up_to: datetime, **changes: Any) -> None:
    """Publish a watermark as if it were the relay's."""
    body = {"up_to": up_to.isoformat(), "topic": pipeline.topic, "partitions": {"0": 0}, "missing": []}
    headers = [("ce_type", b"order.watermark.v1")]
    value = json.dumps({**body, "missing_count": 0, **changes}).encode()
    await producer.send_and_wait(f"{pipeline.topic}.watermarks", value, b"watermark", headers=headers)


@asynccontextmanager
async def announcing(pipeline: Pipeline, up_to: Callable[[], Awaitable[datetime]], offset: int) -> AsyncIterator[None]:
    """Publish watermarks that are not the relay's, ten a second."""

    async def announce_all() -> None:
        async with producing(pipeline.kafka) as producer:
            while True:
                await announce(pipeline, producer, await up_to(), partitions={"0": offset})
                await asyncio.sleep(0.1)  # the rate of the forged watermarks, not a wait

    announcing = asyncio.create_task(announce_all())
    try:
        yield
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)
