"""The batch scheduler limits the batches in flight, lets every batcher go in bounded time, and delays no idle one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from shared import pacing as module
from shared.batcher import Batcher
from shared.pacing import BatchScheduler
from tests.unit.shared.work import Work

STEPS = [str(step) for step in range(20)]


def batcher(step: int, work: Work, scheduler: BatchScheduler) -> Batcher[int, int]:
    return Batcher(STEPS[step], work, batch_max=8, queue_max=50, scheduler=scheduler)


async def all_that_can_run() -> None:
    for _ in range(3 * module.LOOP_ITERATIONS_TO_NEXT_STEP):
        await asyncio.sleep(0)


@asynccontextmanager
async def beside_a_batch(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Batcher[int, int], Work]]:
    """Return a batcher and its work, while another's batch has one of two slots; the other slot needs three items."""
    monkeypatch.setattr(module, "MIN_CONCURRENT_BATCH", 3)
    monkeypatch.setattr(module, "SLOT_SECONDS", 60)
    busy, work = Work(), Work()
    scheduler = BatchScheduler(2, STEPS)
    async with batcher(0, busy, scheduler) as first, batcher(1, work, scheduler) as second:
        alone = first.submit(1)
        await busy.started.wait()
        try:
            yield second, work
        finally:
            busy.through.set()
            work.through.set()
        assert await alone == 10


async def test_no_more_batches_are_in_flight_than_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MIN_CONCURRENT_BATCH", 1)
    works = [Work() for _ in range(3)]
    scheduler = BatchScheduler(2, STEPS)
    async with AsyncExitStack() as stack:
        batchers = [await stack.enter_async_context(batcher(step, work, scheduler)) for step, work in enumerate(works)]
        results = [each.submit(number) for number, each in enumerate(batchers)]
        await asyncio.gather(*(work.started.wait() for work in works[:2]))
        more = batchers[2].submit(7)  # joins the batch that waits for a slot
        assert works[2].batches == []
        works[0].through.set()
        await works[2].started.wait()
        assert works[2].batches == [[2, 7]]
        works[1].through.set()
        works[2].through.set()
        assert await asyncio.gather(*results, more) == [0, 10, 20, 70]


async def test_batch_starts_while_another_runs_once_it_has_the_minimum_size(monkeypatch: pytest.MonkeyPatch) -> None:
    async with beside_a_batch(monkeypatch) as (batches, work):
        results = [batches.submit(2), batches.submit(3)]
        await all_that_can_run()
        assert work.batches == []
        results.append(batches.submit(4))
        await work.started.wait()
        assert work.batches == [[2, 3, 4]]
        work.through.set()
        assert await asyncio.gather(*results) == [20, 30, 40]


async def test_items_submitted_together_past_the_minimum_start_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with beside_a_batch(monkeypatch) as (batches, work):
        waits = batches.submit(2)
        await all_that_can_run()
        assert work.batches == []
        together = batches.submit_all([3, 4, 5])
        await all_that_can_run()
        assert work.batches == [[2, 3, 4, 5]]
        work.through.set()
        assert await waits == 20
        assert await together == [30, 40, 50]


async def test_small_batch_is_passed_over_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASSED_MAX", 2)
    scheduler = BatchScheduler(1, STEPS)
    async with AsyncExitStack() as stack:
        works = [Work() for _ in range(5)]
        first, *others, small = [
            await stack.enter_async_context(batcher(step, work, scheduler)) for step, work in enumerate(works)
        ]
        results = [first.submit(1)]
        await works[0].started.wait()
        results.append(small.submit(2))
        await all_that_can_run()
        for each in others:
            results += [each.submit(3), each.submit(4), each.submit(5)]
        for passing in works[:3]:
            await passing.started.wait()
            assert works[4].batches == []
            passing.through.set()
        await works[4].started.wait()
        assert works[3].batches == []
        for work in works:
            work.through.set()
        await asyncio.gather(*results)


@pytest.mark.parametrize(
    ("ahead", "behind", "first"), [(8, 3, "behind"), (8, 2, "ahead"), (6, 3, "behind"), (6, 2, "ahead")]
)
async def test_earlier_step_goes_first_unless_it_has_far_fewer_items(ahead: int, behind: int, first: str) -> None:
    scheduler = BatchScheduler(1, STEPS)
    busy, earlier, later = Work(), Work(), Work()
    async with (
        batcher(0, busy, scheduler) as zero,
        batcher(1, earlier, scheduler) as one,
        batcher(2, later, scheduler) as two,
    ):
        results = [zero.submit(0)]
        await busy.started.wait()
        results += [two.submit(number) for number in range(ahead)]
        await all_that_can_run()
        results += [one.submit(number) for number in range(behind)]
        await all_that_can_run()
        busy.through.set()
        await asyncio.wait(
            [asyncio.create_task(work.started.wait()) for work in (earlier, later)], return_when=asyncio.FIRST_COMPLETED
        )
        started = [work.started.is_set() for work in (earlier, later)]
        earlier.through.set()
        later.through.set()
        await asyncio.gather(*results)
    assert started == [first == "behind", first == "ahead"]


async def test_results_join_the_items_that_wait_at_the_next_step() -> None:
    scheduler = BatchScheduler(1, STEPS)
    first, second = Work(), Work()
    second.through.set()
    async with batcher(0, first, scheduler) as zero, batcher(1, second, scheduler) as one:

        async def both_steps(number: int) -> int:
            result = await zero.submit(number)
            for _ in range(2):  # the iterations of the event loop that a saga takes between two steps
                await asyncio.sleep(0)
            return await one.submit(result)

        trips = [asyncio.create_task(both_steps(number)) for number in (1, 2)]
        await first.started.wait()
        waits = one.submit(7)
        await all_that_can_run()
        first.through.set()
        assert await asyncio.gather(*trips, waits) == [100, 200, 70]
    assert second.batches == [[7, 10, 20]]


@asynccontextmanager
async def first_and_last(
    monkeypatch: pytest.MonkeyPatch, *, slot_seconds: float = 60
) -> AsyncIterator[tuple[Batcher[int, int], Batcher[int, int], Work, Work]]:
    """Return two steps with one slot, and their work; the first ends immediately. The wait for clients is long."""
    monkeypatch.setattr(module, "SLOT_SECONDS", slot_seconds)
    monkeypatch.setattr(module, "CLIENT_RETURN_SECONDS", 5)
    scheduler, firsts, lasts = BatchScheduler(1, STEPS[:2]), Work(), Work()
    firsts.through.set()
    async with batcher(0, firsts, scheduler) as first, batcher(1, lasts, scheduler) as last:
        yield first, last, firsts, lasts


@dataclass
class Clients:
    """Submit three clients in a batch of the last of two steps, and one that waits at the first step."""

    first: Batcher[int, int]
    firsts: Work
    lasts: Work
    leaving: "list[asyncio.Future[int]]"
    waits: "asyncio.Future[int]"

    async def are_answered(self) -> None:
        self.lasts.through.set()
        await asyncio.gather(*self.leaving)

    async def do_not_delay_the_waiting_item(self) -> None:
        await self.are_answered()
        assert await asyncio.wait_for(self.waits, 2) == 40


@pytest.fixture
async def clients(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clients]:
    monkeypatch.setattr(module, "CLIENT_RETURN_MIN", 3)
    async with first_and_last(monkeypatch) as (first, last, firsts, lasts):
        leaving = [last.submit(number) for number in (1, 2, 3)]
        await lasts.started.wait()
        yield Clients(first, firsts, lasts, leaving, first.submit(4))


async def test_waiting_item_shares_a_batch_with_returning_clients(clients: Clients) -> None:
    await clients.are_answered()
    await all_that_can_run()
    back = [clients.first.submit(number) for number in (1, 2)]
    await all_that_can_run()
    assert clients.firsts.batches == []
    back.append(clients.first.submit(3))
    assert await asyncio.gather(clients.waits, *back) == [40, 10, 20, 30]
    assert clients.firsts.batches == [[4, 1, 2, 3]]


async def test_last_client_to_return_ends_the_wait(clients: Clients) -> None:
    await clients.are_answered()
    await all_that_can_run()
    back = [clients.first.submit(number) for number in (1, 2, 3)]
    assert await asyncio.wait_for(asyncio.gather(clients.waits, *back), 2) == [40, 10, 20, 30]


async def test_wait_ends_when_all_clients_have_returned(clients: Clients) -> None:
    await clients.are_answered()
    back = [clients.first.submit(number) for number in (1, 2, 3)]
    assert await asyncio.wait_for(asyncio.gather(clients.waits, *back), 2) == [40, 10, 20, 30]


async def test_wait_for_clients_that_do_not_return_is_bounded(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLIENT_RETURN_SECONDS", 0)
    await clients.do_not_delay_the_waiting_item()


async def test_slot_is_not_kept_for_few_clients(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_RETURN_MIN", 4)
    await clients.do_not_delay_the_waiting_item()


async def test_slot_is_kept_only_for_answered_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    async with first_and_last(monkeypatch) as (first, last, _, lasts):
        leaving = [last.submit(number) for number in range(12)]  # four of them stay for the next batch
        await lasts.started.wait()
        lasts.through.set()
        await asyncio.gather(*leaving[:8])
        back = [first.submit(number) for number in range(8)]
        await asyncio.wait_for(asyncio.gather(*back, *leaving), 2)
    assert [len(batch) for batch in lasts.batches] == [8, 4]


async def test_slot_is_not_kept_for_cancelled_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    async with first_and_last(monkeypatch) as (first, last, _, lasts):
        for gone in [last.submit(number) for number in range(8)]:
            gone.cancel()
        assert await asyncio.wait_for(first.submit(9), 2) == 90
    assert lasts.batches == []


async def test_slot_given_back_early_is_not_kept_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_RETURN_MIN", 1)
    async with asyncio.timeout(2), first_and_last(monkeypatch, slot_seconds=0.0) as (first, last, _, lasts):
        leaving = last.submit(1)
        await lasts.started.wait()
        assert await first.submit(2) == 20  # the slot was released
        lasts.through.set()
        assert await leaving == 10


async def test_small_batch_does_not_start_because_a_larger_one_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its step is earlier and it is more than half as large, but too small for its own slot."""
    monkeypatch.setattr(module, "MIN_CONCURRENT_BATCH", 3)
    monkeypatch.setattr(module, "SLOT_SECONDS", 60)
    busy, small, large = works = [Work() for _ in range(3)]
    scheduler = BatchScheduler(2, STEPS)
    async with AsyncExitStack() as stack:
        first, second, third = [
            await stack.enter_async_context(batcher(step, work, scheduler)) for step, work in enumerate(works)
        ]
        results = [first.submit(0)]
        await busy.started.wait()
        results += [second.submit(1), second.submit(2)]
        results += [third.submit(number) for number in (3, 4, 5)]
        await large.started.wait()
        assert small.batches == []
        for work in works:
            work.through.set()
        await asyncio.gather(*results)


async def test_slow_batch_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOT_SECONDS", 0.0)
    hanging, work = Work(), Work()
    work.through.set()
    scheduler = BatchScheduler(1, STEPS)
    async with (
        batcher(0, hanging, scheduler) as first,
        batcher(1, work, scheduler) as second,
    ):
        late = first.submit(1)
        await hanging.started.wait()
        assert await second.submit(2) == 20
        hanging.through.set()
        assert await late == 10
        assert (await first.submit(3), await second.submit(4)) == (30, 40)
    assert scheduler._free == 1, "a slot that was given back late is not given back again"


async def test_cancelled_waiter_is_passed_over() -> None:
    scheduler = BatchScheduler(1, STEPS)
    idle = batcher(0, Work(), scheduler)

    async def have() -> bool:
        async with scheduler.slot(idle):
            return True

    async with scheduler.slot(idle):
        gone, next_one = asyncio.create_task(have()), asyncio.create_task(have())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
    assert await asyncio.wait_for(next_one, 1)


async def test_slot_given_to_a_cancelled_waiter_goes_to_the_next() -> None:
    scheduler = BatchScheduler(1, STEPS)
    entered = asyncio.Event()

    idle = batcher(0, Work(), scheduler)

    async def have() -> None:
        async with scheduler.slot(idle):
            entered.set()

    async with scheduler.slot(idle):
        gone, next_one = asyncio.create_task(have()), asyncio.create_task(have())
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, next_one, return_exceptions=True)
    assert entered.is_set()
    async with scheduler.slot(idle):
        pass
