"""Compares every customer's answers with the books, order by order, and the topic with the outbox."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.faults.customers import Purchase, Reply
from tests.infrastructure.waiting import eventually

Row = Mapping[str, Any]
Event = tuple[int, str, str, bytes]  # sequence, id, type, payload
TOPIC, PARTITIONS = "orders.v1", 4
READ_SECONDS = 120


async def read_orders(url: str) -> list[Row]:
    """Return all orders, each with its number of debits."""
    connection = await asyncpg.connect(url)
    try:
        debits = "(SELECT count(*) FROM balances.entries e WHERE e.order_id = o.order_id AND kind = 'debit') AS debits"
        return [dict(row) for row in await connection.fetch(f"SELECT o.*, {debits} FROM orders.orders AS o")]
    finally:
        await connection.close()


def contradictions(purchases: Sequence[Purchase], orders: Sequence[Row]) -> list[str]:
    """Return a line for every answer to a customer that contradicts the books."""
    by_purchase: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for order in orders:
        by_purchase[(order["user_id"], json.loads(order["lines"])[0]["quantity"])].append(order)
    found = []
    for purchase in purchases:
        mine = by_purchase.pop((purchase.user, purchase.quantity), [])
        found += [f"{purchase.flow} of {purchase.user}: {line}" for line in _of_one(purchase, mine)]
    found += [f"no customer placed order {order['order_id']}" for rest in by_purchase.values() for order in rest]
    return found


def _of_one(purchase: Purchase, orders: Sequence[Row]) -> Iterator[str]:
    if len(orders) > 1:
        yield f"one purchase became {len(orders)} orders"
    order = orders[0] if orders else None
    for reply in purchase.replies:
        answer = reply.answer
        if answer is None or answer.status not in (200, 201, 202):
            continue
        if order is None or str(order["order_id"]) != answer.body["order_id"]:
            yield f"got order {answer.body['order_id']}, which does not exist"
            return
    yield from _same_key_same_answer(purchase)
    for reply in purchase.of("place"):
        yield from _placed(purchase, reply, order)
    if order is not None:
        for reply in purchase.replies:
            if reply.definite:
                yield from _paid_or_closed(purchase, reply, order)


def _same_key_same_answer(purchase: Purchase) -> Iterator[str]:
    answers: dict[str, set[tuple[int, str]]] = defaultdict(set)
    for reply in purchase.replies:
        if reply.key is not None and reply.definite and reply.answer is not None:
            answers[reply.key].add((reply.answer.status, json.dumps(reply.answer.body, sort_keys=True)))
    for key, different in answers.items():
        if len(different) > 1:
            yield f"key {key} was answered differently: {different}"


def _placed(purchase: Purchase, reply: Reply, order: Row | None) -> Iterator[str]:
    answer = reply.answer
    if answer is None or answer.status == 202:
        return
    if answer.status == 503 and reply.key is None and order is not None:
        yield "got 503 although the order was begun"
    if reply.definite and answer.status == 201:
        assert order is not None
        yield from _accepted(purchase, str(answer.body["status"]), str(order["status"]))
    elif reply.definite and "order_id" in answer.body:
        reason = str(answer.body["type"]).rpartition("/")[2]
        if order is None or (order["status"], order["reason"], order["event_sequence"]) != ("REJECTED", reason, 0):
            yield f"was refused for {reason}, and the order is {order and (order['status'], order['reason'])}"
    elif reply.definite and order is not None:
        yield f"was refused ({answer.status}) without an order, and there is one"


def _accepted(purchase: Purchase, placed: str, status: str) -> Iterator[str]:
    now, asked_to_close = purchase.body["payment"] == "now", bool(purchase.of("cancel"))
    if placed != ("PAID" if now else "PENDING_PAYMENT"):
        yield f"got 201 and {placed}"
    fine = {"PAID", *(["REFUNDED"] if asked_to_close else [])}
    if not now:
        fine |= {"EXPIRED", "PENDING_PAYMENT", *(["CANCELLED"] if asked_to_close else [])}
    if status not in fine:
        yield f"got 201, and the order is {status}"


def _paid_or_closed(purchase: Purchase, reply: Reply, order: Row) -> Iterator[str]:
    answer, status = reply.answer, order["status"]
    assert answer is not None
    cancelled = bool(purchase.of("cancel"))
    if reply.operation == "payment":
        paid = {"PAID", *(["REFUNDED"] if cancelled else [])}
        if answer.status == 200 and not (answer.body["status"] == "PAID" and status in paid):
            yield f"got the answer that it is paid, and it is {status}"
        if reply.says("order-expired") and (status not in ("EXPIRED", "CANCELLED") or order["debits"]):
            yield f"got the answer that it has expired, and it is {status} with {order['debits']} debits"
        if reply.says("insufficient-balance") and (order["debits"] or status == "PAID"):
            yield f"got the answer that there is no money, and it is {status} with {order['debits']} debits"
    if reply.operation == "cancel" and answer.status == 200 and answer.body["status"] != status:
        yield f"got {answer.body['status']}, and it is {status}"
    if order["debits"] > 1:
        yield f"was debited {order['debits']} times"


async def unpublished(kafka: str, url: str, *, once: bool) -> list[str]:
    """Return a line for every difference of topic and outbox: per order every event, in sequence, without a gap.

    `once`: each event only once, as a real broker ensures; the embedded broker also shows aborted records.
    """
    connection = await asyncpg.connect(url)

    async def all_sent() -> bool:  # and no order is about to expire: its event would come while the topic is read
        return bool(
            await connection.fetchval(
                "SELECT NOT EXISTS (SELECT FROM orders.outbox WHERE status <> 'SENT') AND NOT EXISTS ("
                "SELECT FROM orders.orders WHERE status = 'PENDING_PAYMENT' AND expires_at < now() + interval '60s')"
                " AND NOT EXISTS (SELECT FROM orders.sagas WHERE status IN ('RUNNING', 'COMPENSATING'))"
            )
        )

    try:
        await eventually(all_sent, READ_SECONDS, "the last event published")
        rows = await connection.fetch("SELECT * FROM orders.outbox ORDER BY order_id, sequence")
    finally:
        await connection.close()
    due: dict[UUID, list[Event]] = defaultdict(list)
    for row in rows:
        due[row["order_id"]].append((row["sequence"], str(row["event_id"]), row["type"], bytes(row["payload"])))
    found: dict[UUID, list[Event]] = defaultdict(list)
    for order_id, event in await _read_topic(kafka):
        if once or event not in found[order_id]:
            found[order_id].append(event)
    lines = []
    for order_id in due.keys() | found.keys():
        if due.get(order_id, []) != found.get(order_id, []):
            read, wanted = ([one[:3] for one in events.get(order_id, [])] for events in (found, due))
            lines.append(f"order {order_id}: the topic has {read}, due are {wanted}")
    return lines


async def _read_topic(kafka: str) -> list[tuple[UUID, Event]]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    found: list[tuple[UUID, Event]] = []
    try:
        partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)

        async def all_read() -> bool:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    headers = {name: value.decode() for name, value in record.headers}
                    event = (int(headers["ce_sequence"]), headers["ce_id"], headers["ce_type"], bytes(record.value))
                    found.append((UUID(record.key.decode()), event))
            return all([await consumer.position(partition) >= end for partition, end in ends.items()])

        await eventually(all_read, READ_SECONDS, "the end of the topic")
    finally:
        await consumer.stop()
    return found
