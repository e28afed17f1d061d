"""Natural batching: items that arrive while a batch is in flight go in the next one, and fail independently."""

import asyncio
from collections.abc import Sequence

import pytest

from shared.batcher import Batcher, one_by_one_when
from shared.refusals import Unavailable
from tests.unit.shared.work import Work


def batcher(work: object, *, batch_max: int = 4, queue_max: int = 8) -> Batcher[int, int]:
    return Batcher("test", work, batch_max=batch_max, queue_max=queue_max)  # type: ignore[arg-type]


async def test_single_item_starts_immediately() -> None:
    work = Work()
    work.through.set()
    async with batcher(work) as batches:
        assert await batches.submit(1) == 10
    assert work.batches == [[1]]


async def test_items_that_arrive_during_a_batch_go_into_the_next_ones_in_order_and_bounded() -> None:
    work = Work()
    async with batcher(work, batch_max=4) as batches:
        first = batches.submit(0)
        await work.started.wait()
        others = [batches.submit(item) for item in range(1, 7)]
        work.through.set()
        assert await asyncio.gather(first, *others) == [0, 10, 20, 30, 40, 50, 60]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_failed_item_fails_no_other_item() -> None:
    work = Work()
    work.through.set()
    async with batcher(work) as batches:
        good, bad = batches.submit(1), batches.submit(-1)
        assert await good == 10
        with pytest.raises(ValueError, match="-1"):
            await bad


async def test_a_failed_batch_fails_its_items_and_not_the_next_batch() -> None:
    async def work(items: Sequence[int]) -> Sequence[int]:
        if 0 in items:
            raise OSError("gone")
        return items

    async with batcher(work, batch_max=2) as batches:
        futures = [batches.submit(item) for item in (0, 1, 2, 3)]
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError, int, int]


async def test_missing_result_fails_the_batch_so_that_no_caller_waits_for_ever() -> None:
    async def work(items: Sequence[int]) -> Sequence[int]:
        return items[:-1]

    async with batcher(work) as batches:
        with pytest.raises(RuntimeError, match="returned 0 results"):
            await batches.submit(1)


async def test_cancelled_waiter_does_not_cancel_the_batch_of_others() -> None:
    work = Work()
    async with batcher(work) as batches:
        first = batches.submit(0)
        await work.started.wait()
        impatient, patient = batches.submit(1), batches.submit(2)
        impatient.cancel()
        first.cancel()
        work.through.set()
        assert await patient == 20
    assert work.batches == [[0], [2]]


async def test_a_full_queue_refuses_and_recovers() -> None:
    work = Work()
    async with batcher(work, queue_max=2) as batches:
        first = batches.submit(0)
        await work.started.wait()
        waiting = [batches.submit(item) for item in (1, 2)]
        assert batches.full
        with pytest.raises(Unavailable):
            await batches.submit(3)
        work.through.set()
        await asyncio.gather(first, *waiting)
        assert await batches.submit(4) == 40


async def test_closing_finishes_what_is_queued_and_takes_nothing_more() -> None:
    work = Work()
    async with batcher(work) as batches:
        first = batches.submit(0)
        await work.started.wait()
        queued = batches.submit(1)
        work.through.set()
    assert (first.result(), queued.result()) == (0, 10)
    with pytest.raises(Unavailable):
        await batches.submit(2)


async def test_closing_does_not_begin_items_without_a_waiter() -> None:
    work = Work()
    async with batcher(work) as batches:
        first = batches.submit(0)
        await work.started.wait()
        queued = batches.submit(1)
        together = batches.submit_all([2, 3])
        for waiter in (first, queued, together):
            waiter.cancel()
        work.through.set()
    assert work.batches == [[0]]


async def test_a_batch_that_fails_for_some_of_its_items_is_tried_one_by_one() -> None:
    async def work(items: Sequence[int]) -> Sequence[int | BaseException]:
        if -1 in items:
            raise ValueError("some")
        return items

    results = await one_by_one_when(lambda error: isinstance(error, ValueError), work)([1, -1, 2])
    assert [type(result) for result in results] == [int, ValueError, int]


async def test_a_batch_that_fails_for_all_is_not_tried_one_by_one() -> None:
    tries = 0

    async def work(_items: Sequence[int]) -> Sequence[int]:
        nonlocal tries
        tries += 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await one_by_one_when(lambda error: isinstance(error, ValueError), work)([1, 2])
    assert tries == 1


async def test_lone_item_that_fails_is_not_tried_twice() -> None:
    tries = 0

    async def work(_items: Sequence[int]) -> Sequence[int]:
        nonlocal tries
        tries += 1
        raise ValueError("some")

    with pytest.raises(ValueError, match="some"):
        await one_by_one_when(lambda error: isinstance(error, ValueError), work)([1])
    assert tries == 1


async def test_items_queued_together_get_results_in_order_even_across_batches() -> None:
    work = Work()
    async with batcher(work, batch_max=2) as batches:
        alone = batches.submit(0)
        together = batches.submit_all([1, -2, 3])
        work.through.set()
        one, two, three = await together
        assert (await alone, one, three) == (0, 10, 30)
        assert isinstance(two, ValueError)
    assert work.batches == [[0, 1], [-2, 3]]


async def test_items_submitted_together_are_all_queued_or_none() -> None:
    work = Work()
    async with batcher(work, queue_max=3) as batches:
        alone = [batches.submit(0)]
        await work.started.wait()
        alone.append(batches.submit(1))
        with pytest.raises(Unavailable):
            _ = batches.submit_all([2, 3, 4])
        together = batches.submit_all([2, 3])
        assert batches.full
        work.through.set()
        assert [await one for one in alone] == [0, 10]
        assert await together == [20, 30]


async def test_closed_batcher_takes_no_items_together() -> None:
    work = Work()
    work.through.set()
    async with batcher(work) as batches:
        await batches.submit(0)
    with pytest.raises(Unavailable):
        _ = batches.submit_all([1, 2])


async def test_waiter_cancelled_during_its_batch_of_several_items_stops_no_later_batch() -> None:
    work = Work()
    async with batcher(work) as batches:
        cancelled = batches.submit_all([1, 2])
        await work.started.wait()
        cancelled.cancel()
        work.through.set()
        assert await asyncio.wait_for(batches.submit(3), 1) == 30


async def test_submitting_no_items_returns_immediately() -> None:
    async with batcher(Work()) as batches:
        assert await batches.submit_all([]) == []


async def test_a_waiter_for_several_items_that_is_cancelled_cancels_no_batch() -> None:
    work = Work()
    async with batcher(work, batch_max=1) as batches:
        cancelled, other = batches.submit_all([1, 2]), batches.submit_all([3])
        await work.started.wait()
        cancelled.cancel()
        work.through.set()
        assert await other == [30]
    assert work.batches == [[1], [3]]
