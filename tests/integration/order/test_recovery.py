"""Which process runs a saga: its owner, and after the owner's end another process."""

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
from tests.integration.order.order_service import PATIENCE_SECONDS, Customer, OrderService, sweeping

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEASE_SECONDS = 1.0


async def left_alone(replica: OrderProcess, customer: Customer, count: int = 1) -> list[Saga]:
    """Start sagas that the replica does not run, as if it had died."""
    starts = []
    for _ in range(count):
        order = new_order(datetime.now(UTC), customer.user, [(customer.product, 1)], None, pay_now=True)
        starts.append(Start(Kind.PLACE_NOW, order.order_id, order))
    results = await replica.starts.commit(starts)
    return [result.saga for result in results if isinstance(result, Begun)]


async def owners(service: OrderService, sagas: list[Saga]) -> set[object]:
    rows = await service.db.fetch(
        "SELECT DISTINCT owner FROM orders.sagas WHERE saga_id = ANY ($1::uuid[])", [saga.saga_id for saga in sagas]
    )
    return {row["owner"] for row in rows}


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def test_saga_is_taken_over_only_after_its_owners_lease_has_ended(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica(lease_seconds=LEASE_SECONDS) as gone, service.replica() as other:
        await gone.recovery.renew()
        sagas = await left_alone(gone, customer)
        await other.recovery._sweep_once()
        assert await owners(service, sagas) == {gone.process_id}
        async with sweeping(other):
            await service.until_idle()
        assert await owners(service, sagas) == {other.process_id}
    assert await service.status(sagas[0].order.order_id) == "PAID"
    await service.check()


async def test_process_that_renews_its_lease_keeps_its_sagas(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica(lease_seconds=0.3) as owner, service.replica() as other:
        await owner.recovery.renew()
        keeping = asyncio.create_task(owner.recovery.keep_lease())
        sagas = await left_alone(owner, customer)
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(1.0, over.set)
        while not over.is_set():
            await other.recovery._sweep_once()
        assert await owners(service, sagas) == {owner.process_id}
        keeping.cancel()
        async with sweeping(other):
            await service.until_idle()
    await service.check()


async def test_reads_that_take_all_connections_do_not_cost_the_lease(service: OrderService) -> None:
    async with service.replica(pool_size=1) as replica, replica.pool.connection():
        await asyncio.wait_for(replica.recovery.renew(), LEASE_SECONDS)
        await replica.recovery.check_lease()
        await asyncio.wait_for(replica.recovery.give_up(), LEASE_SECONDS)
    known = "SELECT count(*) FROM orders.processes WHERE process_id = $1"
    assert await service.db.fetchval(known, replica.process_id) == 0


async def test_sagas_of_a_released_lease_are_taken_over_immediately(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica(lease_seconds=3600) as leaving, service.replica() as other:
        await leaving.recovery.renew()
        sagas = await left_alone(leaving, customer)
        await leaving.recovery.give_up()
        await other.recovery._sweep_once()
        assert await owners(service, sagas) == {other.process_id}
        await service.until_idle()
    await service.check()


async def test_sweep_runs_own_sagas_without_a_runner(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica() as replica:
        await replica.recovery.renew()
        sagas = await left_alone(replica, customer, 5)
        await replica.recovery._sweep_once()
        assert replica.registry.count == 5
        await replica.recovery._sweep_once()  # they have runners now
        assert replica.registry.count <= 5
        await service.until_idle()
    assert {await service.status(saga.order.order_id) for saga in sagas} == {"PAID"}
    await service.check()


async def test_sweep_leaves_claimed_sagas_alone(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica() as replica:
        await replica.recovery.renew()
        (saga,) = await left_alone(replica, customer)
        replica.registry.claim(saga.saga_id)
        await replica.recovery._sweep_once()
        assert not replica.registry._tasks
        replica.registry.unclaim(saga.saga_id)
        await replica.recovery._sweep_once()
        await service.until_idle()
    await service.check()


async def test_sagas_of_an_unknown_version_are_left_alone_and_reported(service: OrderService) -> None:
    customer = await service.customer()
    change = "UPDATE orders.sagas SET version = $1 WHERE saga_id = $2"
    async with service.replica() as gone, service.replica() as other:
        newer, known = await left_alone(gone, customer, 2)
        await service.db.execute(change, 99, newer.saga_id)
        await other.recovery.renew()
        await other.recovery._sweep_once()
        assert await owners(service, [newer]) == {gone.process_id}
        assert await owners(service, [known]) == {other.process_id}
        assert metric("sagas_unknown_version") == 1
        # The process doesn't run such a saga either if it owns it.
        await service.db.execute("UPDATE orders.sagas SET owner = $1", other.process_id)
        await other.recovery._sweep_once()
        assert not other.registry.has(newer.saga_id)
        await service.db.execute(change, 1, newer.saga_id)
        async with sweeping(other):
            await service.until_idle()
        await other.recovery._sweep_once()
        assert metric("sagas_unknown_version") == 0
    await service.check()


async def test_concurrent_sweeps_take_each_saga_once(service: OrderService) -> None:
    customer = await service.customer(balance=100_000, stock=100)
    async with service.replica() as gone, service.replica() as one, service.replica() as other:
        sagas = await left_alone(gone, customer, 40)
        await one.recovery.renew()
        await other.recovery.renew()
        before = metric("sagas_taken_over_total")
        await asyncio.gather(*(replica.recovery._sweep_once() for replica in (one, other, one, other)))
        assert metric("sagas_taken_over_total") - before == 40
        assert await owners(service, sagas) <= {one.process_id, other.process_id}
        await service.until_idle()
    assert {await service.status(saga.order.order_id) for saga in sagas} == {"PAID"}
    await service.check()


async def test_take_over_respects_the_limit_of_sagas(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica() as gone, service.replica(sagas_max=2) as busy:
        sagas = await left_alone(gone, customer, 5)
        await busy.recovery.renew()
        before = metric("sagas_taken_over_total")
        await busy.recovery._sweep_once()
        assert metric("sagas_taken_over_total") - before == 2
        async with sweeping(busy):
            await service.until_idle()
    assert {await service.status(saga.order.order_id) for saga in sagas} == {"PAID"}
    await service.check()


async def test_a_process_without_a_lease_is_not_ready(service: OrderService) -> None:
    async with service.replica(lease_seconds=0.2) as replica:
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


async def test_old_leases_are_deleted_unless_their_process_owns_live_sagas(service: OrderService) -> None:
    customer = await service.customer()
    long_ago = "UPDATE orders.processes SET lease_until = now() - interval '2 hours' WHERE process_id = $1"
    known = "SELECT count(*) FROM orders.processes WHERE process_id = $1"
    async with service.replica() as owner, service.replica() as idle, service.replica(sagas_max=1) as other:
        for replica in (owner, idle):
            await replica.recovery.renew()
            await service.db.execute(long_ago, replica.process_id)
        (newer,) = await left_alone(owner, customer)
        await service.db.execute("UPDATE orders.sagas SET version = 99 WHERE saga_id = $1", newer.saga_id)
        await other.recovery._sweep_once()
        assert await service.db.fetchval(known, idle.process_id) == 0
        assert await service.db.fetchval(known, owner.process_id) == 1
        await service.db.execute("UPDATE orders.sagas SET version = 1 WHERE saga_id = $1", newer.saga_id)
        async with sweeping(other):
            await service.until_idle()
    await service.check()


async def test_process_without_a_lease_begins_no_saga_until_it_renews_the_lease(service: OrderService) -> None:
    customer = await service.customer()
    urls = {f"{who}_url": url for who, url in service.urls.items()}
    settings = {"lease_seconds": LEASE_SECONDS, "expiry_interval_seconds": 0.02, "sweep_interval_seconds": 0.02}
    body = {"user_id": customer.user, "lines": [{"product_id": customer.product, "quantity": 1}], "payment": "later"}
    async with serving("order", service.order_url, **settings, **urls) as order:
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

        async with service.db.acquire() as db, db.transaction():
            # Only the renewals of the lease wait.
            await db.execute("LOCK TABLE orders.processes IN EXCLUSIVE MODE")
            await eventually(not_ready, PATIENCE_SECONDS, "the end of the lease")
            await refused()
            assert (await order.get(f"/v1/orders/{orders[0]}"))["status"] == "PENDING_PAYMENT"
            sagas = await service.db.fetchval("SELECT count(*) FROM orders.sagas")
            await service.let_expire(UUID(orders[1]))
            for _ in range(20):  # many intervals of the expiry scheduler
                await refused()
            assert await service.db.fetchval("SELECT count(*) FROM orders.sagas") == sagas

        async def placed() -> bool:
            return (await order.call("POST", "/v1/orders", body)).status == 201

        async def expired() -> bool:
            return await service.status(UUID(orders[1])) == "EXPIRED"

        await eventually(placed, 5, "orders with a lease again")
        await eventually(expired, PATIENCE_SECONDS, "the expiry that was left alone")
    await service.until_idle()
    await service.check()
