"""Waiting ends with the event, the time limit or a cancellation; work runs to completion despite cancellation."""

import asyncio

import pytest

from shared.process.tasks import run_to_completion, wait_for


async def test_wait_returns_true_when_the_event_is_set() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    assert await wait_for(event, 60)


async def test_wait_returns_false_after_the_time_limit() -> None:
    assert not await wait_for(asyncio.Event(), 0.01)


async def endless(event: asyncio.Event) -> None:
    while True:
        await wait_for(event, 60)
        event.clear()


@pytest.mark.parametrize("iterations", range(5))
async def test_loop_cancelled_around_its_event_ends(iterations: int) -> None:
    event = asyncio.Event()
    task = asyncio.create_task(endless(event))
    for _ in range(5):
        await asyncio.sleep(0)
    event.set()
    for _ in range(iterations):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()


async def test_cancelled_caller_waits_until_its_work_is_done() -> None:
    event, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await event.wait()
        done.set()

    task = asyncio.create_task(run_to_completion(work()))
    await asyncio.sleep(0)
    task.cancel()
    assert not (await asyncio.wait([task], timeout=0.01))[0]
    event.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert done.is_set()


async def test_failing_work_raises_its_own_error() -> None:
    async def work() -> None:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        await run_to_completion(work())
