"""What the order service forgets: answered keys past their hours, and sagas that ended long ago."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from services.order.retention import prunings
from shared import pruning
from shared.postgres import Pool
from shared.pruning import Pruner
from tests.integration.order.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = """
    INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, saga_id, status, body, created_at)
    SELECT $1, 'place', 'key ' || n, '', gen_random_uuid(), status, body, now() - make_interval(hours => hours)
    FROM (VALUES (1, 201, 'x'::bytea, 25), (2, 201, 'x', 23), (3, NULL, NULL, 25), (4, 400, 'x', 100),
                 (5, 201, 'x', 25), (6, 201, 'x', 25), (7, 201, 'x', 25)) AS keys (n, status, body, hours)
"""
KEYS_LEFT = "SELECT array_agg(key ORDER BY key) FROM orders.idempotency_keys WHERE user_id = $1"
# As if the order had been placed, and what has ended had ended, that long ago; ids tell it as well.
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
    return Pruner(replica_pool, prunings(key_hours=24, saga_days=90))


async def test_keys_are_kept_for_their_hours_and_while_unanswered(world: World) -> None:
    user = f"user-{uuid4()}"
    await world.db.execute(KEYS, user)
    async with world.replica() as replica:
        await pruner(replica.pool).prune_all()
    assert await world.db.fetchval(KEYS_LEFT, user) == ["key 2", "key 3"]
    await world.db.execute("DELETE FROM orders.idempotency_keys WHERE user_id = $1", user)


async def test_hours_of_a_key_count_from_the_end_of_its_saga(world: World) -> None:
    customer = await world.customer()
    key = customer.key("place", "k")
    claimed = "UPDATE orders.idempotency_keys SET created_at = now() - interval '30 days' WHERE user_id = $1"
    ended = """UPDATE orders.sagas SET ended_at = now() - $2::interval
               WHERE saga_id = (SELECT saga_id FROM orders.idempotency_keys WHERE user_id = $1)"""
    async with world.replica() as replica:
        first = await customer.place(replica, key=key)
        await world.db.execute(claimed, customer.user)
        for hours, left in ((0, ["k"]), (23, ["k"]), (25, None)):
            await world.db.execute(ended, customer.user, timedelta(hours=hours))
            await pruner(replica.pool).prune_all()
            assert await world.db.fetchval(KEYS_LEFT, customer.user) == left
            if left:
                assert await customer.place(replica, key=key) == first
    assert len(await customer.orders()) == 1
    await world.check()


async def test_ended_sagas_are_kept_for_their_days_and_their_orders_for_ever(world: World) -> None:
    async with world.replica() as replica:
        old = [await (await world.customer()).paid(replica) for _ in range(5)]
        young = await (await world.customer()).paid(replica)
        for order_id in old:
            await world.db.execute(AGED, order_id, PAST)
        await world.db.execute(AGED, young, RECENT)
        await pruner(replica.pool).prune_all()
        assert [await world.db.fetchval(SAGAS_LEFT, order_id) for order_id in (*old, young)] == [0, 0, 0, 0, 0, 1]
        assert await world.status(old[0]) == "PAID"
        await replica.checkout.cancel(old[0], None)
        assert await world.status(old[0]) == "REFUNDED"
    await world.check()


async def test_a_live_saga_is_kept_however_old(world: World) -> None:
    order_id, saga_id = UUID(int=7 << 76 | 1), UUID(int=7 << 76 | 2)  # of 1970
    order = """INSERT INTO orders.orders (order_id, user_id, status, lines, currency)
               VALUES ($1, 'u', 'PLACING', '[]', 'KRW')"""
    saga = """INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, owner, started_at)
              VALUES ($1, $2, 'place_now', 1, 'RUNNING', $2, '1970-01-01')"""
    await world.db.execute(order, order_id)
    await world.db.execute(saga, saga_id, order_id)
    async with world.replica() as replica:
        await pruner(replica.pool).prune_all()
    assert await world.db.fetchval(SAGAS_LEFT, order_id) == 1
    await world.db.execute("DELETE FROM orders.sagas WHERE saga_id = $1", saga_id)
    await world.db.execute("DELETE FROM orders.orders WHERE order_id = $1", order_id)
