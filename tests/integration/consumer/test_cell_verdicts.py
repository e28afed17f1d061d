"""Which of several relays decides on an order. Only Postgres is used."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import asyncpg
from structlog.testing import capture_logs

from deploy.consumer import intake, store
from deploy.consumer.completeness import Topic
from deploy.consumer.events import Event
from deploy.consumer.runtime import Pool
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.verification import verify
from tests.infrastructure.locks import waits
from tests.integration.consumer.history import History, item
from tests.integration.consumer.test_guards import TOPIC, db, order, pool, settings, states, take

__all__ = ["db", "order", "pool", "settings"]

OTHER = "orders.c01.v1"


def of_topic(topic: str, events: Sequence[Event]) -> list[Event]:
    return [replace(event, topic=topic) for event in events]


async def topics(db: asyncpg.Connection, table: str = "inbox") -> set[str]:
    return {row["topic"] for row in await db.fetch(f"SELECT topic FROM platform.{table}")}


async def test_copied_event_belongs_to_the_topic_of_the_relay_that_has_it(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    await take(pool, of_topic(OTHER, order))  # copies on the topic of a relay that does not know them
    relays = {TOPIC: History([item(event) for event in order]), OTHER: History()}
    with capture_logs() as logs:
        await verify(pool, relays, [TOPIC], order[0].order_id)
    assert (await states(db), await topics(db), logs) == (["APPLIED"] * 3, {TOPIC}, [])


async def test_event_that_no_asked_relay_has_is_forged_and_named_with_its_topic(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    placed, paid, refunded = order
    await take(pool, [placed, paid, *of_topic(OTHER, [refunded])])
    relays = {TOPIC: History([item(placed), item(paid)]), OTHER: History()}
    await verify(pool, relays, [TOPIC], placed.order_id)
    assert (await states(db), await topics(db), await topics(db, "forged")) == (["APPLIED"] * 2, {TOPIC}, {OTHER})


async def test_only_relays_of_the_topics_that_name_an_order_are_asked(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    await take(pool, order[2:])  # the events before it are missing
    relays = {TOPIC: History([item(event) for event in order]), OTHER: History()}
    ((order_id, doubted_at, named),) = await store.orders_to_ask_for(db, 0, 9)
    await verify(pool, relays, named, order_id, doubted_at)
    assert (await states(db), relays[OTHER].asked) == (["APPLIED"] * 3, [])


async def test_earlier_events_of_a_moved_order_come_from_the_relay_that_it_left(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    *before, after = order
    await take(pool, of_topic(OTHER, [after]))
    relays = {TOPIC: History([item(event) for event in before]), OTHER: History([item(after)])}
    ((order_id, doubted_at, named),) = await store.orders_to_ask_for(db, 0, 9)
    with capture_logs() as logs:
        await verify(pool, relays, named, order_id, doubted_at)
    assert (await states(db), await topics(db)) == (["APPLIED"] * 3, {TOPIC, OTHER})
    assert [line["given_up"] for line in logs] == [[]]


async def test_all_relays_are_asked_for_an_order_that_no_topic_names(
    pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    await take(pool, of_topic(OTHER, order))
    # The relays' URLs are mixed up: every event is unknown.
    await verify(pool, {TOPIC: History(), OTHER: History()}, [OTHER], order[0].order_id)
    assert await topics(db, "forged") == {OTHER}
    await store.doubt_forged(db)
    ((order_id, doubted_at, named),) = await store.orders_to_ask_for(db, 0, 9)
    await verify(
        pool, {TOPIC: History([item(event) for event in order]), OTHER: History()}, named, order_id, doubted_at
    )
    assert (await states(db), await topics(db), await topics(db, "forged")) == (["APPLIED"] * 3, {TOPIC}, set())


async def test_event_that_is_stored_while_the_comparison_begins_is_doubted(
    settings: ConsumerSettings, pool: Pool, db: asyncpg.Connection, order: list[Event]
) -> None:
    now = await db.fetchval("SELECT clock_timestamp()")
    async with pool.connection() as connection:
        await store.keep_watermark(connection, TOPIC, now, None, {}, None)
    topic = Topic(TOPIC, settings, pool, {TOPIC: History()})
    async with pool.transaction() as storing:
        await intake.take(storing, [replace(order[0], occurred_at=now - timedelta(minutes=10))], "topic")
        beginning = await waits(db, topic.check())
    await beginning
    assert await db.fetchval("SELECT doubted_at FROM platform.streams") is not None
