"""What the order service deletes: answered keys past their hours, rejected orders, and sagas that ended long ago."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from services.order.audit.books import BookReader
from services.order.audit.passes import Auditor
from services.order.engine.operations import KeyClaim, fingerprint
from services.order.process import OrderProcess
from services.order.retention import prunings
from services.order.store import Answer
from shared import pruning
from shared.postgres.connections import Pool
from shared.pruning import Pruner
from tests.integration.order.order_service import OrderService, order_id_of, problem_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = """
    INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, saga_id, status, body, created_at)
    SELECT $1, 'place', 'key ' || n, '', gen_random_uuid(), status, body, now() - make_interval(hours => hours)
    FROM (VALUES (1, 201, 'x'::bytea, 25), (2, 201, 'x', 23), (3, 201, 'x', 25), (4, 400, 'x', 100),
                 (5, 201, 'x', 25), (6, NULL, NULL, 25), (7, 201, 'x', 25)) AS keys (n, status, body, hours)
"""
KEYS_LEFT = "SELECT array_agg(key ORDER BY key) FROM orders.idempotency_keys WHERE user_id = $1"
# Moves an order's sagas into the past: their times and the times in their ids.
AGED = """
    UPDATE orders.sagas SET started_at = started_at - $2::interval, ended_at = ended_at - $2::interval,
        saga_id = overlay(saga_id::text PLACING
                          left(orders.first_id_after(started_at - $2::interval)::text, 13) FROM 1)::uuid
    WHERE order_id = $1
"""
SAGAS_LEFT = "SELECT count(*) FROM orders.sagas WHERE order_id = $1"
PAST, RECENT = timedelta(days=91), timedelta(days=89)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "BATCH_MAX", 2)


def pruner(replica_pool: Pool) -> Pruner:
    return Pruner(replica_pool, prunings(key_hours=24, rejected_hours=168, saga_days=90))


async def test_keys_are_kept_for_their_hours_and_no_longer_than_their_refused_saga(service: OrderService) -> None:
    user = f"user-{uuid4()}"
    await service.db.execute(KEYS, user)
    async with service.replica() as replica:
        await pruner(replica.pool).prune_all()
    assert await service.db.fetchval(KEYS_LEFT, user) == ["key 2"]
    await service.db.execute("DELETE FROM orders.idempotency_keys WHERE user_id = $1", user)


async def test_hours_of_a_key_count_from_the_end_of_its_saga(service: OrderService) -> None:
    customer = await service.customer()
    key = customer.key("place", "k")
    claimed = "UPDATE orders.idempotency_keys SET created_at = now() - interval '30 days' WHERE user_id = $1"
    ended = """UPDATE orders.sagas SET ended_at = now() - $2::interval
               WHERE saga_id = (SELECT saga_id FROM orders.idempotency_keys WHERE user_id = $1)"""
    async with service.replica() as replica:
        first = await customer.place(replica, key=key)
        await service.db.execute(claimed, customer.user)
        for hours, left in ((0, ["k"]), (23, ["k"]), (25, None)):
            await service.db.execute(ended, customer.user, timedelta(hours=hours))
            await pruner(replica.pool).prune_all()
            assert await service.db.fetchval(KEYS_LEFT, customer.user) == left
            if left:
                assert await customer.place(replica, key=key) == first
    assert len(await customer.orders()) == 1
    await service.check()


async def test_ended_sagas_are_kept_for_their_days_and_their_orders_for_ever(service: OrderService) -> None:
    async with service.replica() as replica:
        old = [await (await service.customer()).paid(replica) for _ in range(5)]
        young = await (await service.customer()).paid(replica)
        for order_id in old:
            await service.db.execute(AGED, order_id, PAST)
        await service.db.execute(AGED, young, RECENT)
        await pruner(replica.pool).prune_all()
        assert [await service.db.fetchval(SAGAS_LEFT, order_id) for order_id in (*old, young)] == [0, 0, 0, 0, 0, 1]
        assert await service.status(old[0]) == "PAID"
        await replica.checkout.cancel(old[0], None)
        assert await service.status(old[0]) == "REFUNDED"
    await service.check()


# Moves an order into the past, with its saga's end: the time in its id, and its saga's times.
REJECTED_AGO = """
    WITH moved AS (
        INSERT INTO orders.orders
        SELECT (jsonb_populate_record(o, jsonb_build_object('order_id',
            overlay(o.order_id::text PLACING left(orders.first_id_after(now() - $2::interval)::text, 13) FROM 1)))).*
        FROM orders.orders AS o WHERE order_id = $1
        RETURNING order_id
    ), sagas AS (
        UPDATE orders.sagas SET order_id = (SELECT order_id FROM moved), ended_at = now() - $3::interval
        WHERE order_id = $1
    )
    SELECT order_id FROM moved
"""
LEFT = """SELECT (SELECT count(*) FROM orders.orders WHERE user_id = $1),
                 (SELECT count(*) FROM orders.sagas JOIN orders.orders USING (order_id) WHERE user_id = $1),
                 (SELECT count(*) FROM orders.idempotency_keys WHERE user_id = $1)"""


async def rejected(service: OrderService, replica: OrderProcess, ago: timedelta, ended: timedelta | None = None) -> str:
    """Place an order with a key that is rejected; move it into the past, and return its user.

    `ended`: how long ago its saga ended, as long as the order is old if it is not given.
    """
    customer = await service.customer(balance=0)
    answer = await customer.place(replica, key=customer.key("place", "k"))
    old = order_id_of(answer) if isinstance(answer, Answer) else None
    await service.db.fetchval(REJECTED_AGO, old, ago, ended or ago)
    await service.db.execute("DELETE FROM orders.orders WHERE order_id = $1", old)
    return customer.user


async def left(service: OrderService, user: str) -> tuple[int, int, int]:
    """Return how many orders, sagas and keys of a user are left."""
    row = await service.db.fetchrow(LEFT, user)
    assert row is not None
    return row[0], row[1], row[2]


async def test_rejected_orders_leave_with_all_that_belongs_to_them(service: OrderService) -> None:
    week = timedelta(hours=168)
    minute = timedelta(minutes=1)
    async with service.replica() as replica:
        old = [await rejected(service, replica, week + minute) for _ in range(5)]
        young = await rejected(service, replica, week - minute)
        stuck = await rejected(service, replica, timedelta(days=60), week - minute)  # its saga ended later
        kept = await service.customer()
        order_id = await kept.paid(replica)
        await pruner(replica.pool).prune_all()
        async with BookReader(service.urls) as books:
            assert (await Auditor(replica.pool, books, grace_seconds=0).run()).findings == []
    assert [await left(service, user) for user in old] == [(0, 0, 0)] * 5
    # Their keys are past the hours of keys.
    assert await left(service, young) == (1, 1, 1)
    assert await left(service, stuck) == (1, 1, 1)
    assert await service.status(order_id) == "PAID"


async def test_rejected_order_stays_while_its_key_is_valid(service: OrderService) -> None:
    ago = timedelta(hours=200)
    async with service.replica() as replica:
        user = await rejected(service, replica, ago)
        longer = Pruner(replica.pool, prunings(key_hours=240, rejected_hours=168, saga_days=90))
        await longer.prune_all()
        assert await left(service, user) == (1, 1, 1)
        key = KeyClaim(user, "place", "k", fingerprint(None))
        repeated = await replica.checkout.place(user, [("cup", 1)], None, pay_now=True, key=key)
        assert problem_of(repeated) == "insufficient-balance"
        await pruner(replica.pool).prune_all()
    assert await left(service, user) == (0, 0, 0)


async def test_rejected_order_whose_saga_is_gone_leaves_and_others_keys_stay(service: OrderService) -> None:
    async with service.replica() as replica:
        user = await rejected(service, replica, timedelta(days=100))
        await service.db.execute("DELETE FROM orders.idempotency_keys WHERE user_id = $1", user)
        await service.db.execute(
            "DELETE FROM orders.sagas USING orders.orders AS o WHERE sagas.order_id = o.order_id AND user_id = $1", user
        )
        other = await rejected(service, replica, timedelta(days=8))
        # A key that holds its answer itself, as those of earlier versions do, stays for its own hours.
        await service.db.execute(
            "UPDATE orders.idempotency_keys SET status = 400, body = 'x' WHERE user_id = $1", other
        )
        await pruner(replica.pool).prune_all()
    assert await left(service, user) == (0, 0, 0)
    assert await left(service, other) == (0, 0, 1)


async def test_a_live_saga_is_kept_however_old(service: OrderService) -> None:
    order_id, saga_id = UUID(int=7 << 76 | 1), UUID(int=7 << 76 | 2)  # of 1970
    order = """INSERT INTO orders.orders (order_id, user_id, status, lines, currency)
               VALUES ($1, 'u', 'PLACING', '[]', 'KRW')"""
    saga = """INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, owner, started_at)
              VALUES ($1, $2, 'place_now', 1, 'RUNNING', $2, '1970-01-01')"""
    await service.db.execute(order, order_id)
    await service.db.execute(saga, saga_id, order_id)
    key = """INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, saga_id, created_at)
             VALUES ('u', 'place', 'k', '', $1, '1970-01-01')"""
    await service.db.execute(key, saga_id)
    async with service.replica() as replica:
        await pruner(replica.pool).prune_all()
    assert await service.db.fetchval(SAGAS_LEFT, order_id) == 1
    assert await service.db.fetchval(KEYS_LEFT, "u") == ["k"]  # it has no answer yet
    await service.db.execute("DELETE FROM orders.idempotency_keys WHERE saga_id = $1", saga_id)
    await service.db.execute("DELETE FROM orders.sagas WHERE saga_id = $1", saga_id)
    await service.db.execute("DELETE FROM orders.orders WHERE order_id = $1", order_id)
