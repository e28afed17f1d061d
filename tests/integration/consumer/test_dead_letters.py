"""The reference consumer sets aside records that it can't read or that contradict its data, and continues."""

import random
from typing import Any

from tests.infrastructure.pipeline import Pipeline, producing
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import Platform, an_order, mark_sent, publish


async def send(pipeline: Pipeline, event: Any, **headers: bytes | None) -> None:
    """Publish a record directly, with some headers changed."""
    attributes = {
        "ce_specversion": b"1.0",
        "ce_id": str(event.event_id).encode(),
        "ce_type": f"order.{event.name}.{event.version}".encode(),
        "ce_time": b"2026-01-05T09:30:00Z",
        "ce_subject": str(event.order_id).encode(),
        "ce_sequence": b"%020d" % event.sequence,
    }
    changed = {name: value for name, value in {**attributes, **headers}.items() if value is not None}
    async with producing(pipeline.kafka) as producer:
        await producer.send_and_wait(
            pipeline.topic, event.payload, str(event.order_id).encode(), headers=list(changed.items())
        )


async def test_unreadable_record_holds_only_its_order_until_it_can_be_read(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    poison = an_order(source, ("placed", "paid"))
    others = [event for _ in range(10) for event in an_order(source)]
    newer = type(poison[0])(**{**{name: getattr(poison[0], name) for name in poison[0].__slots__}, "version": "v2"})
    await publish(pipeline, [newer, poison[1], *others])
    consumer = consuming.start()
    await consuming.until_equal(others)
    await eventually(lambda: consumer.reached("consumer_dead_letters", 1), 20, "the dead letter")
    (letter,) = (await consumer.call("GET", "/v1/dead-letters")).body["items"]
    assert (letter["order_id"], letter["sequence"]) == (str(newer.order_id), 1)
    assert letter["reason"] == "order.placed.v2 is a version that this build does not know"
    body = (await consumer.call("GET", "/v1/completeness")).body
    assert (body["waiting_orders"], body["dead_letters"]) == (1, 1)
    # Instead of a later build that knows the version, both the record and the relay's event get a version that this
    # build knows. A running consumer could find the relay's before the letter is read again.
    await consumer.stop()
    await consuming.connection.execute("""
        UPDATE platform.dead_letters SET headers = replace(headers::text, encode('order.placed.v2', 'hex'),
                                                           encode('order.placed.v1', 'hex'))::jsonb
    """)
    await pipeline.connection.execute("UPDATE orders.outbox SET type = 'order.placed.v1' WHERE type LIKE '%.v2'")
    assert await retried(consuming) == 0
    consumer = consuming.start()
    await consumer.ready()
    await consuming.until_equal([*poison, *others])
    assert (await consumer.call("GET", "/v1/dead-letters")).body["items"] == []


async def retried(consuming: Platform) -> int:
    from deploy.consumer.__main__ import retry  # noqa: PLC0415 - as the command does it

    return await retry(consuming.settings())


async def test_garbage_is_a_dead_letter_and_the_relay_still_has_the_event(
    consuming: Platform, pipeline: Pipeline, source: random.Random
) -> None:
    order = an_order(source, ("placed", "paid"))
    await publish(pipeline, order[:1])
    await pipeline.until_sent(1)
    await mark_sent(pipeline, order[1])
    await send(pipeline, order[1], ce_specversion=b"\xff")
    await send(pipeline, order[1], ce_id=None, ce_subject=None)
    consumer = consuming.start()
    await consuming.until_equal(order)
    await consuming.until_proven()
    letters = (await consumer.call("GET", "/v1/dead-letters")).body["items"]
    assert [letter["order_id"] for letter in letters] == [None, None]
    assert await retried(consuming) == 1, "no build can read them"
