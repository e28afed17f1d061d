"""Who runs which saga: whoever owns it, and when that one is gone somebody else."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from services.order.engine.operations import Begun, Start, new_order
from services.order.process import OrderProcess
from services.order.saga import Kind, Saga
from shared.refusals import Unavailable
from tests.infrastructure.services import serving
from tests.infrastructure.waiting import eventually
from tests.integration.order.world import PATIENCE_SECONDS, Customer, World, sweeping

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEASE_SECONDS = 1.0


async def left_alone(replica: OrderProcess, customer: Customer, count: int = 1) -> list[Saga]:
    """Sagas that the replica has started and does not run, as if it had died."""
    starts = []
    for _ in range(count):
        order = new_order(datetime.now(UTC), customer.user, [(customer.product, 1)], None, pay_now=True)
        starts.append(Start(Kind.PLACE_NOW, order.order_id, order))
    results = await replica.starts.commit(starts)
    return [result.saga for result in results if isinstance(result, Begun)]


async def owners(world: World, sagas: list[Saga]) -> set[object]:
    rows = await world.db.fetch(
        "SELECT DISTINCT owner FROM orders.sagas WHERE saga_id = ANY ($1::uuid[])", [saga.saga_id for saga in sagas]
    )
    return {row["owner"] for row in rows}


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def test_saga_is_taken_over_only_after_its_owners_lease_has_ended(world: World) -> None:
    customer = await world.customer()
    async with world.replica(lease_seconds=LEASE_SECONDS) as gone, world.replica() as other:
        await gone.recovery.renew()
        sagas = await left_alone(gone, customer)
        await other.recovery._sweep_once()
        assert await owners(world, sagas) == {gone.process_id}
        async with sweeping(other):
            await world.settled()
        assert await owners(world, sagas) == {other.process_id}
    assert await world.status(sagas[0].order.order_id) == "PAID"
    await world.check()


async def test_process_that_renews_its_lease_keeps_its_sagas(world: World) -> None:
    customer = await world.customer()
    async with world.replica(lease_seconds=0.3) as owner, world.replica() as other:
        await owner.recovery.renew()
        keeping = asyncio.create_task(owner.recovery.keep_lease())
        sagas = await left_alone(owner, customer)
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(1.0, over.set)
        while not over.is_set():
            await other.recovery._sweep_once()
        assert await owners(world, sagas) == {owner.process_id}
        keeping.cancel()
        async with sweeping(other):
            await world.settled()
    await world.check()


async def test_reads_that_take_all_connections_do_not_cost_the_lease(world: World) -> None:
    async with world.replica(pool_size=1) as replica, replica.pool.connection():
        await asyncio.wait_for(replica.recovery.renew(), LEASE_SECONDS)
        await replica.recovery.check_lease()
        await asyncio.wait_for(replica.recovery.give_up(), LEASE_SECONDS)
    known = "SELECT count(*) FROM orders.processes WHERE process_id = $1"
    assert await world.db.fetchval(known, replica.process_id) == 0


async def test_sagas_are_taken_over_at_once_when_a_lease_is_given_up(world: World) -> None:
    customer = await world.customer()
    async with world.replica(lease_seconds=3600) as leaving, world.replica() as other:
        await leaving.recovery.renew()
        sagas = await left_alone(leaving, customer)
        await leaving.recovery.give_up()
        await other.recovery._sweep_once()
        assert await owners(world, sagas) == {other.process_id}
        await world.settled()
    await world.check()


async def test_sweep_runs_own_sagas_without_a_runner(world: World) -> None:
    customer = await world.customer()
    async with world.replica() as replica:
        await replica.recovery.renew()
        sagas = await left_alone(replica, customer, 5)
        await replica.recovery._sweep_once()
        assert replica.registry.count == 5
        await replica.recovery._sweep_once()  # they have runners now
        assert replica.registry.count <= 5
        await world.settled()
    assert {await world.status(saga.order.order_id) for saga in sagas} == {"PAID"}
    await world.check()


async def test_sweep_leaves_claimed_sagas_alone(world: World) -> None:
    customer = await world.customer()
    async with world.replica() as replica:
        await replica.recovery.renew()
        (saga,) = await left_alone(replica, customer)
        replica.registry.claim(saga.saga_id)
        await replica.recovery._sweep_once()
        assert not replica.registry._tasks
        replica.registry.unclaim(saga.saga_id)
        await replica.recovery._sweep_once()
        await world.settled()
    await world.check()


async def test_sagas_of_an_unknown_version_are_left_alone_and_reported(world: World) -> None:
    customer = await world.customer()
    change = "UPDATE orders.sagas SET version = $1 WHERE saga_id = $2"
    async with world.replica() as gone, world.replica() as other:
        newer, known = await left_alone(gone, customer, 2)
        await world.db.execute(change, 99, newer.saga_id)
        await other.recovery.renew()
        await other.recovery._sweep_once()
        assert await owners(world, [newer]) == {gone.process_id}
        assert await owners(world, [known]) == {other.process_id}
        assert metric("sagas_unknown_version") == 1
        # Nor does it run one that it owns itself.
        await world.db.execute("UPDATE orders.sagas SET owner = $1", other.process_id)
        await other.recovery._sweep_once()
        assert not other.registry.has(newer.saga_id)
        await world.db.execute(change, 1, newer.saga_id)
        async with sweeping(other):
            await world.settled()
        await other.recovery._sweep_once()
        assert metric("sagas_unknown_version") == 0
    await world.check()


async def test_concurrent_sweeps_take_each_saga_once(world: World) -> None:
    customer = await world.customer(balance=100_000, stock=100)
    async with world.replica() as gone, world.replica() as one, world.replica() as other:
        sagas = await left_alone(gone, customer, 40)
        await one.recovery.renew()
        await other.recovery.renew()
        before = metric("sagas_taken_over_total")
        await asyncio.gather(*(replica.recovery._sweep_once() for replica in (one, other, one, other)))
        assert metric("sagas_taken_over_total") - before == 40
        assert await owners(world, sagas) <= {one.process_id, other.process_id}
        await world.settled()
    assert {await world.status(saga.order.order_id) for saga in sagas} == {"PAID"}
    await world.check()


async def test_take_over_respects_the_limit_of_sagas(world: World) -> None:
    customer = await world.customer()
    async with world.replica() as gone, world.replica(sagas_max=2) as busy:
        sagas = await left_alone(gone, customer, 5)
        await busy.recovery.renew()
        before = metric("sagas_taken_over_total")
        await busy.recovery._sweep_once()
        assert metric("sagas_taken_over_total") - before == 2
        async with sweeping(busy):
            await world.settled()
    assert {await world.status(saga.order.order_id) for saga in sagas} == {"PAID"}
    await world.check()


async def test_a_process_without_a_lease_is_not_ready(world: World) -> None:
    async with world.replica(lease_seconds=0.2) as replica:
        replica.lease.given_up()
        with pytest.raises(Unavailable):
            await replica.recovery.check_lease()
        await replica.recovery.renew()
        await replica.recovery.check_lease()

        async def not_ready() -> bool:
            try:
                await replica.recovery.check_lease()
            except Unavailable:
                return True
            return False

        await eventually(not_ready, PATIENCE_SECONDS, "the end of the lease")


async def test_old_leases_are_deleted_unless_their_process_owns_live_sagas(world: World) -> None:
    customer = await world.customer()
    long_ago = "UPDATE orders.processes SET lease_until = now() - interval '2 hours' WHERE process_id = $1"
    known = "SELECT count(*) FROM orders.processes WHERE process_id = $1"
    async with world.replica() as owner, world.replica() as idle, world.replica(sagas_max=1) as other:
        for replica in (owner, idle):
            await replica.recovery.renew()
            await world.db.execute(long_ago, replica.process_id)
        (newer,) = await left_alone(owner, customer)
        await world.db.execute("UPDATE orders.sagas SET version = 99 WHERE saga_id = $1", newer.saga_id)
        await other.recovery._sweep_once()
        assert await world.db.fetchval(known, idle.process_id) == 0
        assert await world.db.fetchval(known, owner.process_id) == 1
        await world.db.execute("UPDATE orders.sagas SET version = 1 WHERE saga_id = $1", newer.saga_id)
        async with sweeping(other):
            await world.settled()
    await world.check()


async def test_process_without_a_lease_begins_nothing_until_it_renews_it(world: World) -> None:
    customer = await world.customer()
    urls = {f"{who.value}_url": url for who, url in world.urls.items()}
    settings = {"lease_seconds": LEASE_SECONDS, "expiry_interval_seconds": 0.02, "sweep_interval_seconds": 0.02}
    body = {"user_id": customer.user, "lines": [{"product_id": customer.product, "quantity": 1}], "payment": "later"}
    async with serving("order", world.order_url, **settings, **urls) as order:
        orders = [(await order.post("/v1/orders", body))["order_id"] for _ in range(2)]
        calls = [
            ("/v1/orders", body),
            (f"/v1/orders/{orders[0]}/payment", None),
            (f"/v1/orders/{orders[0]}/cancel", None),
        ]

        async def refused() -> None:
            for path, sent in calls:
                answer = await order.call("POST", path, sent)
                assert (answer.status, answer.problem) == (503, "unavailable")
                assert "no lease" in answer.body["detail"]
                assert answer.headers["Retry-After"] == "1"

        async def not_ready() -> bool:
            return "no lease" in (await order.call("GET", "/readyz")).body["checks"]["lease"]

        async with world.db.acquire() as db, db.transaction():
            # Its renewals wait, and nothing else does.
            await db.execute("LOCK TABLE orders.processes IN EXCLUSIVE MODE")
            await eventually(not_ready, PATIENCE_SECONDS, "the end of the lease")
            await refused()
            assert (await order.get(f"/v1/orders/{orders[0]}"))["status"] == "PENDING_PAYMENT"
            sagas = await world.db.fetchval("SELECT count(*) FROM orders.sagas")
            await world.let_expire(UUID(orders[1]))
            for _ in range(20):  # many times the interval in which due orders are looked for
                await refused()
            assert await world.db.fetchval("SELECT count(*) FROM orders.sagas") == sagas

        async def placed() -> bool:
            return (await order.call("POST", "/v1/orders", body)).status == 201

        async def expired() -> bool:
            return await world.status(UUID(orders[1])) == "EXPIRED"

        await eventually(placed, 5, "orders with a lease again")
        await eventually(expired, PATIENCE_SECONDS, "the expiry that was left alone")
    await world.settled()
    await world.check()
