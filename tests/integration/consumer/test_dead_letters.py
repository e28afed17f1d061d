"""What the reference consumer cannot read, or what contradicts what it has, is kept aside and holds up nobody else."""

import random
from typing import Any

from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import Platform, an_order, mark_sent, publish
from tests.integration.relay.world import World, producing


async def send(world: World, event: Any, **headers: bytes | None) -> None:
    """Put a record on the topic by hand, with some headers changed."""
    attributes = {
        "ce_specversion": b"1.0",
        "ce_id": str(event.event_id).encode(),
        "ce_type": f"order.{event.name}.{event.version}".encode(),
        "ce_time": b"2026-01-05T09:30:00Z",
        "ce_subject": str(event.order_id).encode(),
        "ce_sequence": b"%020d" % event.sequence,
    }
    changed = {name: value for name, value in {**attributes, **headers}.items() if value is not None}
    async with producing(world.kafka) as producer:
        await producer.send_and_wait(
            world.topic, event.payload, str(event.order_id).encode(), headers=list(changed.items())
        )


async def test_what_cannot_be_read_holds_its_order_alone_until_it_can_be(
    consuming: Platform, world: World, source: random.Random
) -> None:
    poison = an_order(source, ("placed", "paid"))
    others = [event for _ in range(10) for event in an_order(source)]
    newer = type(poison[0])(**{**{name: getattr(poison[0], name) for name in poison[0].__slots__}, "version": "v2"})
    await publish(world, [newer, poison[1], *others])
    consumer = consuming.start()
    await consuming.until_equal(others)
    await eventually(lambda: consumer.reached("consumer_dead_letters", 1), 20, "the dead letter")
    (letter,) = (await consumer.call("GET", "/v1/dead-letters")).body["items"]
    assert (letter["order_id"], letter["sequence"]) == (str(newer.order_id), 1)
    assert letter["reason"] == "order.placed.v2 is a version that this build does not know"
    body = (await consumer.call("GET", "/v1/completeness")).body
    assert (body["waiting_orders"], body["dead_letters"]) == (1, 1)
    # A build that knows it, by and by: here the record is made one that this build knows.
    await consuming.connection.execute("""
        UPDATE platform.dead_letters SET headers = replace(headers::text, encode('order.placed.v2', 'hex'),
                                                           encode('order.placed.v1', 'hex'))::jsonb
    """)
    assert await retried(consuming) == 0
    await consuming.until_equal([*poison, *others])
    assert (await consumer.call("GET", "/v1/dead-letters")).body["items"] == []


async def retried(consuming: Platform) -> int:
    from deploy.consumer.__main__ import retry  # noqa: PLC0415 - as the command does it

    return await retry(consuming.settings())


async def test_garbage_is_a_dead_letter_and_the_relay_still_has_the_event(
    consuming: Platform, world: World, source: random.Random
) -> None:
    order = an_order(source, ("placed", "paid"))
    await publish(world, order[:1])
    await world.until_sent(1)
    await mark_sent(world, order[1])
    await send(world, order[1], ce_specversion=b"\xff")
    await send(world, order[1], ce_id=None, ce_subject=None)
    consumer = consuming.start()
    await consuming.until_equal(order)
    await consuming.until_proven()
    letters = (await consumer.call("GET", "/v1/dead-letters")).body["items"]
    assert [letter["order_id"] for letter in letters] == [None, None]
    assert await retried(consuming) == 1, "nobody can ever read them"


async def test_an_event_that_contradicts_another_is_a_dead_letter(
    consuming: Platform, world: World, source: random.Random
) -> None:
    (event,) = an_order(source, ("paid",))
    await publish(world, [event])
    await world.until_sent(1)
    consumer = consuming.start()
    await consuming.until_equal([event])
    (twin,) = an_order(source, ("refunded",))
    forged = type(event)(event.order_id, 1, "refunded", event.user_id, event.total_amount, event_id=twin.event_id)
    await send(world, forged)
    await eventually(lambda: consumer.reached("consumer_dead_letters", 1), 20, "the dead letter")
    await consuming.until_equal([event])
    (letter,) = (await consumer.call("GET", "/v1/dead-letters")).body["items"]
    assert letter["reason"] == "another event has sequence 1 of this order"
    assert await retried(consuming) == 1
