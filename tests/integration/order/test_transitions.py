"""A saga's later commits: guarded, atomic with their event and answers, with event sequences without gaps."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from services.order import store
from services.order.engine.operations import Begun, Start, new_order
from services.order.engine.transitions import TransitionRequest, TransitionResult
from services.order.process import OrderProcess
from services.order.saga import Kind, Saga, Send, Transition, learn, next_move, undos
from shared.participant.protocol import Outcome
from tests.integration.order.order_service import Customer, OrderService

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(service: OrderService) -> AsyncIterator[OrderProcess]:
    async with service.replica() as replica:
        yield replica


async def begun(replica: OrderProcess, customer: Customer, *, now: bool = True, key: str | None = None) -> Saga:
    """Return a placement that has only been started."""
    order = new_order(datetime.now(UTC), customer.user, [(customer.product, 1)], None, pay_now=now)
    claim = customer.key("place", key) if key else None
    kind = Kind.PLACE_NOW if now else Kind.PLACE_LATER
    (result,) = await replica.starts.commit([Start(kind, order.order_id, order, claim, traceparent="00-1-2-01")])
    assert isinstance(result, Begun)
    return result.saga


def finished(saga: Saga) -> TransitionRequest:
    """Return the transition of a saga whose steps were all applied."""
    while isinstance(move := next_move(saga), Send):
        for command in move.commands:
            line = saga.order.lines[0].product_id
            lines = [{"product_id": line, "name": "Thing", "unit_price": 100}]
            saga = learn(saga, command, Outcome(True, {"lines": lines, "balance": 0}))
    return TransitionRequest(saga, move, [{"at": "2026-01-01T00:00:00Z", "step": "debit", "outcome": "applied"}])


async def written(service: OrderService, order_id: UUID) -> tuple[str, str, int, list[str]]:
    """Return the statuses of order and saga, the sequence, and the types of the events."""
    row = await service.db.fetchrow(
        "SELECT o.status, s.status AS saga_status, o.event_sequence FROM orders.orders AS o "
        "JOIN orders.sagas AS s USING (order_id) WHERE order_id = $1 ORDER BY saga_id DESC LIMIT 1",
        order_id,
    )
    assert row is not None
    events = await service.db.fetch("SELECT type FROM orders.outbox WHERE order_id = $1 ORDER BY sequence", order_id)
    return row["status"], row["saga_status"], row["event_sequence"], [event["type"] for event in events]


async def test_order_saga_event_and_key_go_in_one_commit(service: OrderService, replica: OrderProcess) -> None:
    saga = await begun(replica, await service.customer(), key="k")
    (changed,) = await replica.transitions.commit([finished(saga)])
    assert isinstance(changed, TransitionResult)
    assert changed.answer is not None
    assert await written(service, saga.order.order_id) == ("PAID", "DONE", 1, ["order.paid.v1"])
    # The same transaction wrote all four rows.
    transactions = await service.db.fetch(
        "SELECT xmin::text FROM orders.orders WHERE order_id = $1 UNION SELECT xmin::text FROM orders.sagas "
        "WHERE order_id = $1 UNION SELECT xmin::text FROM orders.outbox WHERE order_id = $1 UNION "
        "SELECT xmin::text FROM orders.idempotency_keys WHERE saga_id = $2",
        saga.order.order_id,
        saga.saga_id,
    )
    assert len(transactions) == 1
    event = await service.db.fetchrow("SELECT * FROM orders.outbox WHERE order_id = $1", saga.order.order_id)
    assert event is not None
    assert event["payload"] == changed.answer.body
    assert (event["status"], event["sequence"], event["traceparent"]) == ("PENDING", 1, "00-1-2-01")


async def test_a_commit_wakes_the_relay_once_however_large_its_batch(
    service: OrderService, replica: OrderProcess
) -> None:
    woken: list[str] = []
    listener = await asyncpg.connect(service.database.url)
    try:
        await listener.add_listener("orders_outbox", lambda *_: woken.append("up"))
        customer = await service.customer()
        changes = [finished(await begun(replica, customer)) for _ in range(10)]
        await listener.fetchval("SELECT 1")
        assert woken == []
        await replica.transitions.commit(changes)
        await listener.fetchval("SELECT 1")  # what was notified before arrives before its answer
    finally:
        await listener.close()
    assert woken == ["up"]


OTHERS: dict[str, str] = {
    "somebody else owns the saga": "UPDATE orders.sagas SET owner = gen_random_uuid() WHERE saga_id = $1",
    "the saga was turned round": (
        "UPDATE orders.sagas SET status = 'COMPENSATING', target = 'REJECTED' WHERE saga_id = $1"
    ),
    "the saga has ended": "UPDATE orders.sagas SET status = 'DONE', ended_at = now() WHERE saga_id = $1",
    "the order is not what it was": (
        "UPDATE orders.orders SET status = 'CANCELLED' WHERE order_id = "
        "(SELECT order_id FROM orders.sagas WHERE saga_id = $1)"
    ),
}


@pytest.mark.parametrize("what", OTHERS)
async def test_a_transition_loses_when(service: OrderService, replica: OrderProcess, what: str) -> None:
    customer = await service.customer()
    saga, neighbour = await begun(replica, customer, key="k"), await begun(replica, customer)
    await service.db.execute(OTHERS[what], saga.saga_id)
    before = await written(service, saga.order.order_id)
    lost, won = await replica.transitions.commit([finished(saga), finished(neighbour)])
    assert lost is None
    assert isinstance(won, TransitionResult)
    assert await written(service, saga.order.order_id) == before
    key = await service.db.fetchval("SELECT status FROM orders.idempotency_keys WHERE saga_id = $1", saga.saga_id)
    assert key is None


async def test_a_transition_is_made_once_and_its_repeat_loses(service: OrderService, replica: OrderProcess) -> None:
    saga = await begun(replica, await service.customer())
    change = finished(saga)
    assert isinstance((await replica.transitions.commit([change]))[0], TransitionResult)
    assert await replica.transitions.commit([change]) == [None]
    assert (await written(service, saga.order.order_id))[2:] == (1, ["order.paid.v1"])


async def test_event_that_cannot_be_written_rolls_the_transition_back(
    service: OrderService, replica: OrderProcess
) -> None:
    saga = await begun(replica, await service.customer(), key="k")
    taken = "INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload) VALUES ($1, $2, 1, 't', 'x')"
    await service.db.execute(taken, saga.saga_id, saga.order.order_id)
    with pytest.raises(asyncpg.UniqueViolationError):
        await replica.transitions.commit([finished(saga)])
    assert (await written(service, saga.order.order_id))[:3] == ("PLACING", "RUNNING", 0)
    assert (
        await service.db.fetchval("SELECT status FROM orders.idempotency_keys WHERE saga_id = $1", saga.saga_id) is None
    )


async def test_sequences_count_from_one_without_gaps(service: OrderService, replica: OrderProcess) -> None:
    customer = await service.customer()
    order_id = await customer.unpaid(replica)
    await replica.checkout.pay(order_id, None)
    await replica.checkout.cancel(order_id, None)
    rows = await service.db.fetch(
        "SELECT sequence, type FROM orders.outbox WHERE order_id = $1 ORDER BY outbox_id", order_id
    )
    assert [(row["sequence"], row["type"]) for row in rows] == [
        (1, "order.placed.v1"),
        (2, "order.paid.v1"),
        (3, "order.refunded.v1"),
    ]


async def test_a_transition_without_an_event_leaves_no_gap(service: OrderService, replica: OrderProcess) -> None:
    customer = await service.customer(balance=0)
    order_id = await customer.unpaid(replica)
    for _ in range(3):
        await replica.checkout.pay(order_id, None)  # refused: PAYING and back, without an event
    await replica.checkout.cancel(order_id, None)
    assert await written(service, order_id) == (
        "CANCELLED",
        "COMPENSATED",
        2,
        ["order.placed.v1", "order.cancelled.v1"],
    )


@pytest.mark.parametrize("now", [True, False], ids=["paid now", "paid later, then closed"])
async def test_the_order_in_an_answer_is_the_order_that_was_written(
    service: OrderService, replica: OrderProcess, now: bool
) -> None:
    saga = await begun(replica, await service.customer(), now=now)
    (changed,) = await replica.transitions.commit([finished(saga)])
    assert isinstance(changed, TransitionResult)
    async with replica.pool.connection() as db:
        assert changed.order == await store.get_order(db, saga.order.order_id)
    (closing,) = await replica.starts.commit([Start(Kind.CLOSE, saga.order.order_id)])
    assert isinstance(closing, Begun)
    undone = replace(closing.saga, undone=frozenset(step.undo for step in undos(closing.saga)))
    move = next_move(undone)
    assert isinstance(move, Transition)
    (closed,) = await replica.transitions.commit([TransitionRequest(undone, move, [])])
    assert isinstance(closed, TransitionResult)
    async with replica.pool.connection() as db:
        assert closed.order == await store.get_order(db, saga.order.order_id)


async def test_crossing_batches_of_two_replicas_do_not_deadlock(service: OrderService, replica: OrderProcess) -> None:
    async with service.replica() as other:
        customer = await service.customer()
        for _ in range(5):
            ours = [finished(await begun(replica, customer)) for _ in range(20)]
            results: Any = await asyncio.gather(replica.transitions.commit(ours), other.transitions.commit(ours[::-1]))
            assert all(isinstance(result, TransitionResult) for result in results[0])
            assert results[1] == [None] * 20


async def test_key_attached_while_a_payment_ends_is_answered(service: OrderService, replica: OrderProcess) -> None:
    customer = await service.customer()
    order_id = await customer.unpaid(replica)
    (paying,) = await replica.starts.commit([Start(Kind.PAY, order_id, key=customer.key("pay", "first"))])
    assert isinstance(paying, Begun)
    other = await asyncpg.connect(service.database.url)
    try:
        async with other.transaction():  # like a second request with another key
            await other.execute("SELECT 1 FROM orders.orders WHERE order_id = $1 FOR UPDATE", order_id)
            ending = asyncio.create_task(replica.transitions.commit([finished(paying.saga)]))
            await service.until_waiting_for_locks()
            await other.execute(
                "INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, saga_id) "
                "VALUES ($1, 'pay', 'second', '', $2)",
                customer.user,
                paying.saga.saga_id,
            )
        (changed,) = await ending
    finally:
        await other.close()
    assert isinstance(changed, TransitionResult)
    answers = await service.db.fetch(
        "SELECT status, body FROM orders.idempotency_keys WHERE saga_id = $1", paying.saga.saga_id
    )
    assert changed.answer is not None
    assert [(row["status"], row["body"]) for row in answers] == [(200, changed.answer.body)] * 2
