"""A wait ends by its event, by its time, and by a cancellation that comes with either; work is not left halfway."""

import asyncio

import pytest

from shared.waiting import ended, waited


async def test_a_wait_ends_with_its_event() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    assert await waited(event, 60)


async def test_a_wait_ends_with_its_time() -> None:
    assert not await waited(asyncio.Event(), 0.01)


async def for_ever(event: asyncio.Event) -> None:
    while True:
        await waited(event, 60)
        event.clear()


@pytest.mark.parametrize("turns", range(5))
async def test_a_loop_ends_when_it_is_cancelled_around_the_time_of_its_event(turns: int) -> None:
    event = asyncio.Event()
    task = asyncio.create_task(for_ever(event))
    for _ in range(5):
        await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()


async def test_work_has_ended_when_who_does_it_is_cancelled() -> None:
    event, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await event.wait()
        done.set()

    task = asyncio.create_task(ended(work()))
    await asyncio.sleep(0)
    task.cancel()
    assert not (await asyncio.wait([task], timeout=0.01))[0]
    event.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert done.is_set()


async def test_work_that_fails_tells_why() -> None:
    async def work() -> None:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        await ended(work())
