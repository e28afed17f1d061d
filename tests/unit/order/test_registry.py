"""How many sagas a process has, and how many of them are of orders with a coupon."""

import asyncio
import time

from services.order.domain import SagaId
from services.order.engine.registry import Lane, SagaRegistry
from services.order.saga import Kind, Saga
from services.order.store import Answer
from shared.ids import uuid7
from tests.unit.order.samples import a_saga


def another(kind: Kind, *, coupon: bool = True) -> Saga:
    return a_saga(kind, coupon=coupon, saga_id=SagaId(uuid7()))


class Work:
    """A saga that goes on until it is told to end."""

    def __init__(self, running: SagaRegistry, saga: Saga) -> None:
        self.running = running
        self.saga = saga
        self.end = asyncio.Event()

    async def run(self) -> Answer | None:
        await self.end.wait()
        self.running.ended(self.saga.saga_id)
        return None


def counts(running: SagaRegistry) -> tuple[int, int]:
    return running.count, running.count_in(Lane.COUPON)


async def test_saga_counts_from_its_claim_to_its_end() -> None:
    running, saga = SagaRegistry(), another(Kind.PLACE_NOW)
    running.claim(saga.saga_id, Lane.COUPON)
    assert counts(running) == (1, 1)
    work = Work(running, saga)
    running.begin(saga, work.run())
    running.unclaim(saga.saga_id)
    assert counts(running) == (1, 1)
    work.end.set()
    await running.drain(10)
    assert counts(running) == (0, 0)


async def test_withdrawn_claim_no_longer_counts() -> None:
    running, saga = SagaRegistry(), another(Kind.PLACE_NOW)
    running.claim(saga.saga_id, Lane.COUPON)
    running.unclaim(saga.saga_id)
    assert counts(running) == (0, 0)


async def test_saga_joins_the_coupon_lane_when_it_runs_if_unknown_at_its_claim() -> None:
    running = SagaRegistry()
    sagas = [another(Kind.CLOSE), another(Kind.PAY, coupon=False)]
    for saga in sagas:
        running.claim(saga.saga_id)
        running.begin(saga, Work(running, saga).run())
    assert counts(running) == (2, 1)
    await running.cancel_all()


async def test_until_ended_returns_when_enough_sagas_have_ended() -> None:
    running = SagaRegistry()
    works = [Work(running, another(Kind.CLOSE)) for _ in range(4)]
    for work in works:
        running.begin(work.saga, work.run())
    waiting = asyncio.create_task(running.until_ended([work.saga.saga_id for work in works], 2, 3600))
    works[3].end.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    works[1].end.set()
    await asyncio.wait_for(waiting, 10)
    # Those that have ended before count as well, and who waits does not wait for ever.
    await running.until_ended([work.saga.saga_id for work in works], 2, 3600)
    began = time.monotonic()
    await running.until_ended([work.saga.saga_id for work in works], 3, 0.05)
    assert time.monotonic() - began >= 0.04
    assert running.count == 2
    await running.cancel_all()
