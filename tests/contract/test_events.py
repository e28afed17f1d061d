"""The promises to consumers of the topic: format, key, order, and each committed event once."""

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from tests.infrastructure.shopping import (
    PATIENCE_SECONDS,
    a_coupon,
    a_product,
    a_user,
    an_order,
    wait_until_sagas_ended,
)
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import eventually

ATTRIBUTES = {
    *("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "ce_sequence", "ce_traceparent"),
    "content-type",
}


class Topic:
    """Return the topic's committed records from its beginning."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._records: list[ConsumerRecord] = []

    async def of(self, order_id: str, count: int) -> list[ConsumerRecord]:
        """Return an order's records, once there are `count` of them and everything committed was read."""

        async def enough() -> bool:
            for records in (await self._consumer.getmany(timeout_ms=50)).values():
                self._records += records
            return len(self._found(order_id)) >= count

        await eventually(enough, PATIENCE_SECONDS, f"{count} events of order {order_id}")
        return self._found(order_id)

    def _found(self, order_id: str) -> list[ConsumerRecord]:
        return [record for record in self._records if record.key == order_id.encode()]


@pytest.fixture
async def topic(stack: Stack) -> AsyncIterator[Topic]:
    # Without a group: it reads every partition from its beginning, and stores no positions.
    consumer = AIOKafkaConsumer(
        stack.topic, bootstrap_servers=stack.kafka, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        yield Topic(consumer)
    finally:
        await consumer.stop()


def headers(record: ConsumerRecord) -> dict[str, str]:
    names = [name for name, _ in record.headers]
    assert len(names) == len(set(names))
    return {name: value.decode() for name, value in record.headers}


def summaries(records: list[ConsumerRecord]) -> list[tuple[int, str, str]]:
    """Return the sequence, the type and the status in the data."""
    return [
        (int(headers(record)["ce_sequence"]), headers(record)["ce_type"], json.loads(record.value)["status"])
        for record in records
    ]


async def place(shop: Shop, **fields: Any) -> dict[str, Any]:
    user = await a_user(shop)
    fields["coupon_id"] = await a_coupon(shop, user)
    order: dict[str, Any] = await shop.order.post("/v1/orders", an_order(user, await a_product(shop), **fields))
    return order


async def test_paid_order_is_published_in_cloudevents_binary_mode(shop: Shop, topic: Topic) -> None:
    order = await place(shop)
    (record,) = await topic.of(order["order_id"], 1)
    attributes = headers(record)
    assert set(attributes) == ATTRIBUTES
    assert record.key == order["order_id"].encode()
    assert json.loads(record.value) == order
    fixed = ("ce_specversion", "ce_source", "ce_type", "ce_subject", "ce_sequence", "content-type")
    assert [attributes[name] for name in fixed] == [
        "1.0",
        "/services/order",
        "order.paid.v1",
        order["order_id"],
        "00000000000000000001",
        "application/json",
    ]
    assert UUID(attributes["ce_id"]).version == 7
    happened = datetime.fromisoformat(attributes["ce_time"])
    assert abs((happened - datetime.fromisoformat(order["paid_at"])).total_seconds()) < 5


async def test_an_event_carries_the_trace_of_its_request(shop: Shop, topic: Topic) -> None:
    user, product = await a_user(shop), await a_product(shop)
    traceparent = f"00-{'7' * 32}-00f067aa0ba902b7-01"
    answer = await shop.order.call("POST", "/v1/orders", an_order(user, product), headers={"traceparent": traceparent})
    (record,) = await topic.of(answer.body["order_id"], 1)
    assert headers(record)["ce_traceparent"].split("-")[1] == "7" * 32


async def test_order_paid_later_and_refunded_publishes_its_events_in_sequence(shop: Shop, topic: Topic) -> None:
    order = await place(shop, payment="later")
    await shop.order.post(f"/v1/orders/{order['order_id']}/payment", None)
    await shop.order.post(f"/v1/orders/{order['order_id']}/cancel", None)
    records = await topic.of(order["order_id"], 3)
    assert summaries(records) == [
        (1, "order.placed.v1", "PENDING_PAYMENT"),
        (2, "order.paid.v1", "PAID"),
        (3, "order.refunded.v1", "REFUNDED"),
    ]
    assert len({record.partition for record in records}) == 1
    assert len({headers(record)["ce_id"] for record in records}) == 3
    assert json.loads(records[0].value) == order


@pytest.mark.parametrize("end", ["EXPIRED", "CANCELLED"])
async def test_unpaid_order_publishes_its_placement_and_its_end(
    shop: Shop, stack: Stack, topic: Topic, end: str
) -> None:
    order = await place(shop, payment="later")
    if end == "CANCELLED":
        await shop.order.post(f"/v1/orders/{order['order_id']}/cancel", None)
    else:
        connection = await asyncpg.connect(stack.database.url)
        await connection.execute("UPDATE orders.orders SET expires_at = now() WHERE order_id = $1", order["order_id"])
        await connection.close()
    records = await topic.of(order["order_id"], 2)
    assert summaries(records) == [(1, "order.placed.v1", "PENDING_PAYMENT"), (2, f"order.{end.lower()}.v1", end)]


async def test_rejected_order_has_no_events(shop: Shop, stack: Stack, topic: Topic) -> None:
    user, product = await a_user(shop, 0), await a_product(shop)
    answer = await shop.order.call("POST", "/v1/orders", an_order(user, product))
    assert answer.problem == "insufficient-balance"
    later = await place(shop)
    await wait_until_sagas_ended(stack)
    await topic.of(later["order_id"], 1)
    assert await topic.of(answer.body["order_id"], 0) == []


async def test_every_committed_event_is_on_the_topic_once_and_in_order(shop: Shop, stack: Stack, topic: Topic) -> None:
    last = await place(shop)
    await wait_until_sagas_ended(stack)
    await topic.of(last["order_id"], 1)
    connection = await asyncpg.connect(stack.database.url)
    rows = await connection.fetch("SELECT * FROM orders.outbox ORDER BY order_id, sequence")
    await connection.close()
    by_order: dict[str, list[tuple[str, int]]] = {}
    for row in rows:
        by_order.setdefault(str(row["order_id"]), []).append((str(row["event_id"]), row["sequence"]))
    for order_id, events in by_order.items():
        records = await topic.of(order_id, len(events))
        found = [(headers(record)["ce_id"], int(headers(record)["ce_sequence"])) for record in records]
        assert found == events
