"""A participant that is down delays the orders that need it, and leaves capacity for others; so does expiry."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY

from services.order.checkout import Pending
from services.order.domain import OrderId
from services.order.engine.quota import TooManyRequests
from services.order.engine.registry import Lane
from services.order.process import OrderProcess
from services.order.saga import Participant
from services.order.store import Answer
from shared.http.idempotency import IdempotencyInProgress
from shared.refusals import Unavailable
from tests.infrastructure.proxy import Mode, Proxy
from tests.infrastructure.waiting import eventually
from tests.integration.order.checkpoints import Checkpoints
from tests.integration.order.order_service import (
    PATIENCE_SECONDS,
    Customer,
    OrderService,
    beside,
    order_id_of,
    problem_of,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOSING = "SELECT count(*) FROM orders.orders WHERE order_id = ANY ($1::uuid[]) AND closing IS NOT NULL"


def turned_away() -> float:
    return REGISTRY.get_sample_value("orders_turned_away_total") or 0.0


async def unpaid_orders(service: OrderService, count: int, coupon: str | None) -> list[OrderId]:
    """Place orders that are not paid in time."""
    customers = [await service.customer() for _ in range(count)]
    async with service.replica() as replica:
        orders = [order_id_of(await placed(customer, replica, now=False, coupon=coupon)) for customer in customers]
    await service.let_expire(*orders)
    return orders


async def placed(customer: Customer, replica: OrderProcess, **options: Any) -> Answer:
    answer = await customer.place(replica, **options)
    assert problem_of(answer) is None
    assert isinstance(answer, Answer)
    return answer


async def until_expired(service: OrderService, orders: Sequence[OrderId], count: int | None = None) -> None:
    async def as_many_are_expired() -> bool:
        query = "SELECT count(*) FROM orders.orders WHERE order_id = ANY ($1::uuid[]) AND status = 'EXPIRED'"
        return bool(await service.db.fetchval(query, orders) == (len(orders) if count is None else count))

    await eventually(as_many_are_expired, PATIENCE_SECONDS, "the expiry of orders")


@asynccontextmanager
async def beyond(
    service: OrderService, participant: Participant, mode: Mode, **settings: Any
) -> AsyncIterator[tuple[OrderProcess, Proxy]]:
    """A replica, and its proxy of a participant."""
    port = urlsplit(service.urls[participant]).port
    assert port is not None
    async with Proxy("127.0.0.1", port) as way, service.replica(urls={participant: way.url}, **settings) as replica:
        way.set(mode)
        yield replica, way


async def test_expiry_takes_at_most_a_quarter_of_the_capacity_and_payments_continue(service: OrderService) -> None:
    customer = await service.customer()
    async with service.replica() as replica:
        to_pay = await customer.unpaid(replica)
    due = [*await unpaid_orders(service, 3, "own"), *await unpaid_orders(service, 3, None)]
    async with beyond(service, Participant.PRODUCT, Mode.SILENT, sagas_max=8) as (replica, way):

        async def one_of_each_is_closing() -> bool:
            return bool(await service.db.fetchval(CLOSING, due) == 2)

        async with beside(replica.expiry.run()):
            await eventually(one_of_each_is_closing, PATIENCE_SECONDS, "the first closings")
            assert problem_of(await replica.checkout.pay(to_pay, None)) is None
        for lane in Lane:
            await replica.expiry._expire(lane)
        assert await service.db.fetchval(CLOSING, due) == 2
        assert (replica.registry.count, replica.admission.available) == (2, 6)
        way.set(Mode.OPEN)
        async with beside(replica.expiry.run()):
            await until_expired(service, due)
        await service.until_idle()
    await service.check()


async def test_orders_without_coupon_expire_while_coupon_service_is_down(service: OrderService) -> None:
    with_coupon, others = await unpaid_orders(service, 3, "own"), await unpaid_orders(service, 5, None)
    async with beyond(service, Participant.COUPON, Mode.CLOSED, sagas_max=8) as (replica, way):
        async with beside(replica.expiry.run()):
            await until_expired(service, others)
            assert await service.db.fetchval(CLOSING, with_coupon) == 1
            way.set(Mode.OPEN)
            await until_expired(service, with_coupon)
        await service.until_idle()
    await service.check()


async def test_one_slow_closing_does_not_stop_the_expiry_of_a_backlog(service: OrderService) -> None:
    due = await unpaid_orders(service, 9, None)
    go_on = asyncio.Event()

    async def pause() -> None:
        await go_on.wait()

    # 4 at a time: half of a quarter. Each has a checkpoint before its start's commit and one after it. The next
    # checkpoint is that of a command of one of them.
    async with (
        service.replica(Checkpoints(at=9, happens=pause), sagas_max=32, expiry_interval_seconds=3600) as replica,
        beside(replica.expiry.run()),
    ):
        await until_expired(service, due, 8)
        go_on.set()
        await until_expired(service, due)
        await service.until_idle()
    await service.check()


@pytest.mark.parametrize("mode", [Mode.CLOSED, Mode.SILENT, Mode.DEAF], ids=lambda mode: mode.name.lower())
async def test_orders_without_coupon_continue_while_coupon_service_is_down(service: OrderService, mode: Mode) -> None:
    customers = [await service.customer() for _ in range(8)]
    before = turned_away()
    async with beyond(service, Participant.COUPON, mode, sagas_max=8) as (replica, way):
        # All concurrently, so that no failure is known yet.
        keys = [customer.key("place", "k") for customer in customers]
        held, refused = await held_up(
            6, [customer.place(replica, key=key) for customer, key in zip(customers, keys, strict=True)]
        )
        assert len(refused) == 2
        assert all("with a coupon" in str(refusal) for refusal in refused)
        assert turned_away() == before + 2
        for pay_now in (True, False):
            await placed(customers[7], replica, now=pay_now, coupon=None)
        # A repeated request begins nothing and is refused as such; the key of a refused request is free.
        with pytest.raises(IdempotencyInProgress):
            await customers[0].place(replica, key=keys[0])
        assert replica.admission.available == 2
        way.set(Mode.OPEN)
        for one in held:
            assert problem_of(await one) is None
        await placed(customers[7], replica, key=keys[7])
        await replica.registry.drain(PATIENCE_SECONDS)
        assert replica.registry.count_in(Lane.COUPON) == 0
    await service.check()


async def held_up(
    count: int, requests: Iterable[Coroutine[Any, Any, Any]]
) -> tuple[list[asyncio.Task[Any]], list[BaseException | None]]:
    """Send requests concurrently; return `count` that wait, and the refusals of the others."""
    tasks = [asyncio.create_task(request) for request in requests]
    await asyncio.sleep(0)  # they begin

    async def no_more_wait() -> bool:
        return sum(not task.done() for task in tasks) == count

    await eventually(no_more_wait, PATIENCE_SECONDS, f"{count} that wait")
    return [task for task in tasks if not task.done()], [task.exception() for task in tasks if task.done()]


async def test_payments_with_a_coupon_take_no_capacity_from_the_other_lane(service: OrderService) -> None:
    customers = [await service.customer() for _ in range(9)]
    async with service.replica() as replica:
        unpaid = [await customer.unpaid(replica) for customer in customers]
    due = await unpaid_orders(service, 2, None)
    async with beyond(service, Participant.COUPON, Mode.CLOSED, sagas_max=8) as (replica, way):
        held, _ = await held_up(9, [replica.checkout.pay(order_id, None) for order_id in unpaid])

        async def all_are_known() -> bool:
            return replica.registry.count_in(Lane.COUPON) == 9

        await eventually(all_are_known, PATIENCE_SECONDS, "nine payments")
        assert replica.admission.available == 2  # of a quarter, though nine of eight are taken
        await placed(customers[0], replica, coupon=None)
        with pytest.raises(Unavailable, match="with a coupon"):
            await customers[0].place(replica)
        async with beside(replica.expiry.run()):
            await until_expired(service, due)
        way.set(Mode.OPEN)
        for one in held:
            assert problem_of(await one) is None
    await service.check()


async def test_repeated_request_is_answered_while_the_coupon_lane_is_full(service: OrderService) -> None:
    customer, other = await service.customer(), await service.customer()
    async with beyond(service, Participant.COUPON, Mode.OPEN, sagas_max=2) as (replica, way):
        key = customer.key("place", "k")
        answer = await placed(customer, replica, key=key)
        way.set(Mode.CLOSED)
        (held,), _ = await held_up(1, [other.place(replica)])
        assert not replica.admission.has_capacity_in(Lane.COUPON)
        repeats = [customer.place(replica, key=key) for _ in range(3)]
        first, *others = await asyncio.gather(*repeats, return_exceptions=True)
        assert first == answer
        assert [type(other) for other in others] == [Unavailable] * 2, "one is looked up at a time"
        way.set(Mode.OPEN)
        assert problem_of(await held) is None
    await service.check()


async def test_order_whose_participant_is_down_stays_in_its_callers_quota(service: OrderService) -> None:
    customer = await service.customer()
    limits = {"subject_sagas_max": 2, "request_deadline_seconds": 0.2}
    async with beyond(service, Participant.PRODUCT, Mode.SILENT, **limits) as (replica, way):
        for _ in range(2):
            assert isinstance(await customer.place(replica, subject="ann"), Pending)
        with pytest.raises(TooManyRequests):
            await customer.place(replica, subject="ann")
        assert isinstance(await customer.place(replica, subject="bob"), Pending)
        way.set(Mode.OPEN)
        await service.until_idle()
        await placed(customer, replica, subject="ann", coupon=None)
    await service.check()


async def test_cell_begins_nothing_while_its_new_ids_would_belong_to_another_cell(service: OrderService) -> None:
    customer = await service.customer()
    cell: dict[str, Any] = {"cell_slots": ("0-4095",), "cell_slots_since": "2999-01-01T00:00:00Z"}
    async with service.replica(**cell) as replica:
        with pytest.raises(Unavailable, match="CELL_SLOTS_SINCE"):
            await customer.place(replica)
    assert await customer.orders() == []
