"""A saga's first commit: which operation begins, which one loses, and what happens to idempotency keys."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.order.checkout import Pending
from services.order.engine.operations import Attached, Begun, KeyClaim, Start, fingerprint, new_order
from services.order.engine.registry import Lane
from services.order.saga import Kind
from services.order.store import Answer
from shared.http.idempotency import IdempotencyInProgress, IdempotencyKeyReused
from shared.postgres.connections import Connection, Pool
from tests.infrastructure.waiting import eventually
from tests.integration.order.checkpoints import Checkpoints
from tests.integration.order.order_service import (
    PATIENCE_SECONDS,
    Customer,
    OrderService,
    order_id_of,
    problem_of,
    sweeping,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

DUE_SOON = "UPDATE orders.orders SET expires_at = clock_timestamp() + interval '1 minute' WHERE order_id = $1"
LIVE_OF = "SELECT count(*) FROM orders.sagas WHERE order_id = $1 AND status IN ('RUNNING', 'COMPENSATING')"


def buying(customer: Customer, key: KeyClaim | None = None) -> Start:
    order = new_order(datetime.now(UTC), customer.user, [(customer.product, 1)], None, pay_now=True)
    return Start(Kind.PLACE_NOW, order.order_id, order, key)


class Counted(Pool):
    """A pool that counts how often it has lent a connection."""

    def __init__(self, pool: Pool) -> None:
        self._lending = pool
        self.lent = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        self.lent += 1
        async with self._lending.connection() as db:
            yield db


async def cleared(service: OrderService) -> None:
    """End the sagas that tests have only started."""
    async with service.replica() as helper, sweeping(helper):
        await service.until_idle()
    await service.check()


async def test_a_start_writes_order_saga_and_key_and_no_event(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica() as replica:
        start = buying(customer, customer.key("place", "k"))
        (begun,) = await replica.starts.commit([start])
    assert isinstance(begun, Begun)
    (order,) = await customer.orders()
    assert (order["status"], order["total_amount"], order["expires_at"], order["event_sequence"]) == (
        "PLACING",
        None,
        None,
        0,
    )
    saga = await service.db.fetchrow("SELECT * FROM orders.sagas WHERE saga_id = $1", start.saga_id)
    assert saga is not None
    assert (saga["status"], saga["owner"], saga["kind"]) == ("RUNNING", replica.process_id, "place_now")
    key = await service.db.fetchrow("SELECT * FROM orders.idempotency_keys WHERE saga_id = $1", start.saga_id)
    assert key is not None
    assert key["status"] is None
    await cleared(service)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_one_of_concurrent_payment_cancellation_and_expiry_begins(service: OrderService, replicas: int) -> None:
    async with service.replica() as one, service.replica() as other:
        for _ in range(8):
            customer = await service.customer()
            order_id = await customer.unpaid(one)
            await service.db.execute(DUE_SOON, order_id)
            starts = [
                Start(Kind.PAY, order_id),
                Start(Kind.CLOSE, order_id),
                Start(Kind.PAY, order_id),
                Start(Kind.CLOSE, order_id),
            ]
            if replicas == 1:
                results: list[Any] = [*await one.starts.commit(starts)]
            else:
                both = await asyncio.gather(one.starts.commit(starts[:2]), other.starts.commit(starts[2:]))
                results = [*both[0], *both[1]]
            assert Counter(type(result) for result in results)[Begun] == 1
            assert await service.db.fetchval(LIVE_OF, order_id) == 1
            begun = next(result for result in results if isinstance(result, Begun))
            for start, result in zip(starts, results, strict=True):
                if result is not begun:
                    expected = Attached if start.kind is begun.saga.kind else Answer
                    assert isinstance(result, expected)
    await cleared(service)


async def test_an_expiry_and_a_payment_are_decided_by_the_database_s_clock(service: OrderService) -> None:
    async with service.replica() as replica:
        customer = await service.customer()
        order_id = await customer.unpaid(replica)
        (early,) = await replica.starts.commit([Start(Kind.CLOSE, order_id, expiring=True)])
        assert not isinstance(early, Begun)
        await service.let_expire(order_id)
        late, expired = await replica.starts.commit(
            [Start(Kind.PAY, order_id), Start(Kind.CLOSE, order_id, expiring=True)]
        )
        assert problem_of(late) == "order-expired"
        assert isinstance(expired, Begun)
    await cleared(service)


async def test_payment_start_observes_the_databases_clock(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica() as other:
        order_id = await customer.unpaid(other)
    async with service.replica() as replica:
        await replica.starts.commit([Start(Kind.PAY, order_id)])
        now = await service.db.fetchval("SELECT clock_timestamp()")
        assert abs(replica.starts._clock.now() - now) < timedelta(seconds=5)
    await cleared(service)


async def test_column_added_while_the_service_runs_fails_no_payment(service: OrderService) -> None:
    async with service.replica() as replica:
        orders = [await (await service.customer()).unpaid(replica) for _ in range(3)]
        assert problem_of(await replica.checkout.pay(orders[0], None)) is None
        await service.db.execute("ALTER TABLE orders.orders ADD COLUMN added integer")
        try:
            assert problem_of(await replica.checkout.pay(orders[1], None)) is None
            assert problem_of(await replica.checkout.cancel(orders[2], None)) is None
        finally:
            await service.db.execute("ALTER TABLE orders.orders DROP COLUMN added")
        assert problem_of(await replica.checkout.cancel(orders[0], None)) is None
    assert [await service.status(order_id) for order_id in orders] == ["REFUNDED", "PAID", "CANCELLED"]
    await service.check()


async def test_waiting_for_a_remote_saga_polls_less_and_less_often(service: OrderService) -> None:
    customer = await service.customer()
    go_on, started = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        started.set()
        await go_on.wait()

    async with (
        service.replica(checkpoints := Checkpoints()) as owner,
        service.replica(request_deadline_seconds=2) as other,
    ):
        order_id = await customer.unpaid(owner)
        checkpoints.at, checkpoints.happens = checkpoints.passed + 2, wait  # after its start
        payment = asyncio.create_task(owner.checkout.pay(order_id, None))
        await started.wait()
        # At the beginning, after 0.1, 0.2, 0.4 and 0.8 seconds, and at the deadline.
        pool = other.checkout._pool = Counted(other.pool)
        assert isinstance(await other.checkout.pay(order_id, None), Pending)
        assert pool.lent <= 6
        go_on.set()
        assert problem_of(await payment) is None
    await service.check()


async def test_races_run_to_their_end_and_one_wins(service: OrderService) -> None:
    async with service.replica() as one, service.replica() as other:
        ends: Counter[str] = Counter()
        for number in range(10):
            customer = await service.customer()
            order_id = await customer.unpaid(one)
            if number % 2:
                await service.db.execute(DUE_SOON, order_id)
            await asyncio.gather(
                one.checkout.pay(order_id, None),
                other.checkout.cancel(order_id, None),
                other.checkout.pay(order_id, None),
                one.checkout.cancel(order_id, None),
                other.checkout.expire([order_id], Lane.COUPON),
            )
            await service.until_idle()
            ends[await service.status(order_id)] += 1
    # A cancellation that comes after the payment refunds it.
    assert ends.total() == 10
    assert set(ends) <= {"PAID", "CANCELLED", "REFUNDED"}
    await service.check()


async def test_unknown_order_is_refused_and_the_refusal_stored_for_its_key(service: OrderService) -> None:
    customer = await service.customer()
    key = customer.key("pay", "k")
    nobody = new_order(datetime.now(UTC), customer.user, [("x", 1)], None, pay_now=False).order_id
    async with service.replica() as replica:
        first = await replica.checkout.pay(nobody, key)
        assert problem_of(first) == "order-not-found"
        assert await replica.checkout.pay(nobody, key) == first
    await service.check()


async def test_repeats_of_a_key_in_one_batch_make_one_order(service: OrderService) -> None:
    customer = await service.customer()
    other_body = KeyClaim(customer.user, "place", "k", fingerprint("another body"))
    async with service.replica() as replica:
        starts = [buying(customer, customer.key("place", "k")) for _ in range(5)]
        starts.append(buying(customer, other_body))
        results = await replica.starts.commit(starts)
    assert [type(result) for result in results] == [Begun, *[IdempotencyInProgress] * 4, IdempotencyKeyReused]
    assert len(await customer.orders()) == 1
    await cleared(service)


async def test_repeats_of_a_key_at_two_replicas_make_one_order(service: OrderService) -> None:
    async with service.replica() as one, service.replica() as other:
        for _ in range(10):
            customer = await service.customer()
            results = await asyncio.gather(
                *(
                    replica.starts.commit([buying(customer, customer.key("place", f"k{n}")) for n in numbers])
                    for replica, numbers in ((one, (1, 2, 3)), (other, (3, 2, 1)))
                )
            )
            kinds = Counter(type(result) for batch in results for result in batch)
            assert kinds == {Begun: 3, IdempotencyInProgress: 3}
            assert len(await customer.orders()) == 3
    await cleared(service)


async def test_a_key_is_answered_with_its_saga_s_end(service: OrderService) -> None:
    customer = await service.customer()
    key = customer.key("place", "k")
    async with service.replica() as replica:
        first = await customer.place(replica, key=key)
        assert await customer.place(replica, key=key) == first
    assert isinstance(first, Answer)
    stored = await service.db.fetchrow("SELECT * FROM orders.idempotency_keys WHERE user_id = $1", customer.user)
    assert stored is not None
    assert (stored["status"], stored["body"], stored["location"]) == (first.status, first.body, first.location)
    await service.check()


async def test_a_refused_saga_answers_its_key_too(service: OrderService) -> None:
    customer = await service.customer(balance=0)
    key = customer.key("place", "k")
    async with service.replica() as replica:
        first = await customer.place(replica, key=key)
        assert problem_of(first) == "insufficient-balance"
        await service.balance.post(f"/v1/accounts/{customer.user}/charges", {"amount": 1000})
        assert await customer.place(replica, key=key) == first
    await service.check()


async def test_attached_payment_stores_the_running_payments_answer_for_its_own_key(service: OrderService) -> None:
    customer = await service.customer()
    paused, go_on = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        paused.set()
        await go_on.wait()

    async with service.replica() as other, service.replica(checkpoints := Checkpoints()) as replica:
        order_id = await customer.unpaid(other)
        checkpoints.at, checkpoints.happens = 2, pause  # after its start
        first = asyncio.create_task(replica.checkout.pay(order_id, customer.key("pay", "first")))
        await paused.wait()
        second = asyncio.create_task(other.checkout.pay(order_id, customer.key("pay", "second")))

        async def attached() -> bool:
            query = "SELECT count(*) FROM orders.idempotency_keys WHERE user_id = $1 AND saga_id IS NOT NULL"
            return bool(await service.db.fetchval(query, customer.user) == 2)

        await eventually(attached, PATIENCE_SECONDS, "the second payment to attach")
        go_on.set()
        answers = await asyncio.gather(first, second)
        assert answers[0] == answers[1]
        assert problem_of(answers[0]) is None
        for name in ("first", "second"):
            assert await other.checkout.pay(order_id, customer.key("pay", name)) == answers[0]
    await service.check()


async def test_saga_that_outlasts_the_deadline_is_pending_and_continues(service: OrderService) -> None:
    customer = await service.customer()
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    checkpoints = Checkpoints(at=2, happens=wait)
    async with service.replica(checkpoints, request_deadline_seconds=0.05) as replica:
        pending = await customer.place(replica)
        assert isinstance(pending, Pending)
        assert pending.order.status == "PLACING"
        go_on.set()
        await service.until_idle()
    assert [order["status"] for order in await customer.orders()] == ["PAID"]
    await service.check()


async def test_operation_already_in_effect_is_answered_without_a_saga(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica() as replica:
        order_id = await customer.paid(replica)
        again = await replica.checkout.pay(order_id, None)
        assert problem_of(again) is None
        assert isinstance(again, Answer)
        assert order_id_of(again) == order_id
        await replica.checkout.cancel(order_id, None)
        assert problem_of(await replica.checkout.cancel(order_id, None)) is None
    assert await service.db.fetchval("SELECT count(*) FROM orders.sagas WHERE order_id = $1", order_id) == 2
    await service.check()
