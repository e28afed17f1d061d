"""The registry counts a process' sagas, and those of orders with a coupon."""

import asyncio
import time

import pytest

from services.order.domain import SagaId
from services.order.engine.admission import Admission
from services.order.engine.registry import Lane, SagaRegistry
from services.order.product_shards import shards_of
from services.order.saga import Kind, Saga
from services.order.store import Answer
from shared.ids import uuid7
from shared.refusals import Unavailable
from tests.unit.order.samples import a_saga

TWO = shards_of([((), "http://a"), ((), "http://b")])[0]  # the second has mugs, the first cups, pens and ink


def another(kind: Kind, *, coupon: bool = True) -> Saga:
    return a_saga(kind, coupon=coupon, saga_id=SagaId(uuid7()))


class Work:
    """A saga that runs until the test ends it."""

    def __init__(self, registry: SagaRegistry, saga: Saga) -> None:
        self.registry = registry
        self.saga = saga
        self.end = asyncio.Event()

    async def run(self) -> Answer | None:
        await self.end.wait()
        self.registry.ended(self.saga.saga_id)
        return None


def counts(registry: SagaRegistry) -> tuple[int, int]:
    return registry.count, registry.count_in(Lane.COUPON)


async def test_saga_counts_from_its_claim_to_its_end() -> None:
    registry, saga = SagaRegistry(), another(Kind.PLACE_NOW)
    registry.claim(saga.saga_id, Lane.COUPON)
    assert counts(registry) == (1, 1)
    work = Work(registry, saga)
    registry.begin(saga, work.run())
    registry.unclaim(saga.saga_id)
    assert counts(registry) == (1, 1)
    work.end.set()
    await registry.drain(10)
    assert counts(registry) == (0, 0)


async def test_withdrawn_claim_no_longer_counts() -> None:
    registry, saga = SagaRegistry(), another(Kind.PLACE_NOW)
    registry.claim(saga.saga_id, Lane.COUPON)
    registry.unclaim(saga.saga_id)
    assert counts(registry) == (0, 0)


async def test_saga_of_unknown_lane_joins_the_coupon_lane_when_it_runs() -> None:
    registry = SagaRegistry()
    sagas = [another(Kind.CLOSE), another(Kind.PAY, coupon=False)]
    for saga in sagas:
        registry.claim(saga.saga_id)
        registry.begin(saga, Work(registry, saga).run())
    assert counts(registry) == (2, 1)
    await registry.cancel_all()


async def test_saga_is_in_the_lanes_of_its_product_shards_from_its_claim_to_its_end() -> None:
    registry, saga = SagaRegistry(TWO), another(Kind.PLACE_NOW, coupon=False)
    registry.claim(saga.saga_id, *registry.lanes_of(None, ["mug", "pen", "ink"]))
    assert [registry.count_in(place) for place in TWO.places] == [1, 1]
    work = Work(registry, saga)  # its order's products are all of the first shard
    registry.begin(saga, work.run())
    registry.unclaim(saga.saga_id)
    assert [registry.count_in(place) for place in TWO.places] == [1, 0]
    work.end.set()
    await registry.drain(10)
    assert [registry.count_in(place) for place in TWO.places] == [0, 0]


async def test_one_product_service_has_no_lane() -> None:
    registry = SagaRegistry()
    assert registry.lanes_of("WELCOME", ["mug"]) == (Lane.COUPON,)
    assert registry.lanes_of(None, ["mug"]) == (Lane.PLAIN,)


def in_lanes_of(registry: SagaRegistry, count: int, *products: str) -> None:
    for _ in range(count):
        registry.claim(SagaId(uuid7()), *registry.lanes_of(None, products))


async def test_orders_of_one_shard_leave_a_quarter_of_the_capacity_to_others() -> None:
    registry = SagaRegistry(TWO)
    admission = Admission(registry, 8)
    in_lanes_of(registry, 6, "mug")
    mug, pen, both = (registry.lanes_of(None, products) for products in (["mug"], ["pen"], ["pen", "mug"]))
    assert [admission.has_capacity_in(*lanes) for lanes in (mug, pen, both)] == [False, True, False]
    with pytest.raises(Unavailable, match="of these products"):
        admission.check_lanes(*both)
    admission.check_lanes(*pen)
    in_lanes_of(registry, 3, "mug")  # of processes that died: they take no capacity from the orders of other shards
    assert admission.available == 2


async def test_saga_beyond_the_limits_of_two_shards_counts_once() -> None:
    registry = SagaRegistry(TWO)
    in_lanes_of(registry, 9, "mug", "pen")
    assert Admission(registry, 8).available == 2


async def test_until_ended_returns_when_enough_sagas_have_ended() -> None:
    registry = SagaRegistry()
    works = [Work(registry, another(Kind.CLOSE)) for _ in range(4)]
    for work in works:
        registry.begin(work.saga, work.run())
    waiting = asyncio.create_task(registry.until_ended([work.saga.saga_id for work in works], 2, 3600))
    works[3].end.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    works[1].end.set()
    await asyncio.wait_for(waiting, 10)
    # Sagas that ended before count too, and a wait always ends.
    await registry.until_ended([work.saga.saga_id for work in works], 2, 3600)
    began = time.monotonic()
    await registry.until_ended([work.saga.saga_id for work in works], 3, 0.05)
    assert time.monotonic() - began >= 0.04
    assert registry.count == 2
    await registry.cancel_all()
