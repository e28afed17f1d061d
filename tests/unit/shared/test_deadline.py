"""Only a request past its deadline is cut off, soon and permanently."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from shared.http import deadline
from shared.http.deadline import GRACE_SECONDS, LOOK_SECONDS, Deadlines
from tests.infrastructure.waiting import eventually

DEADLINE_SECONDS = 0.1
# Two checks, the second of which cuts off, and a margin for a busy machine.
CUT_OFF_SECONDS = DEADLINE_SECONDS + GRACE_SECONDS + 2 * LOOK_SECONDS + 0.3
IDLE_SECONDS = 10


async def handled(
    deadlines: Deadlines, handler: Callable[[], Awaitable[object]], seconds: float = DEADLINE_SECONDS
) -> str:
    """Handle a request as the server does, and return its result."""
    task = deadlines.begin(seconds)
    cut_off = False
    try:
        try:
            await handler()
        finally:
            cut_off = deadlines.end(task)
    except asyncio.CancelledError:
        if not cut_off:
            raise
        await asyncio.sleep(0)  # nothing of the cancellation is left
        return "cut off"
    return "answered"


async def hang() -> None:
    await asyncio.Event().wait()


async def cleans_up() -> None:
    try:
        await hang()
    finally:
        await hang()


async def test_a_request_that_hangs_is_cut_off_soon_after_its_deadline() -> None:
    deadlines = Deadlines()
    async with asyncio.timeout(CUT_OFF_SECONDS):
        began = time.monotonic()
        assert await handled(deadlines, hang) == "cut off"
    assert time.monotonic() - began >= DEADLINE_SECONDS + GRACE_SECONDS


async def test_a_task_whose_request_was_cut_off_handles_its_next_one() -> None:
    deadlines = Deadlines()
    async with asyncio.timeout(2 * CUT_OFF_SECONDS):
        assert await handled(deadlines, hang) == "cut off"
        assert await handled(deadlines, lambda: asyncio.sleep(0)) == "answered"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_each_request_has_its_own_deadline() -> None:
    deadlines = Deadlines()
    slow = asyncio.create_task(handled(deadlines, lambda: asyncio.sleep(CUT_OFF_SECONDS), 60))
    assert await handled(deadlines, hang) == "cut off"
    assert await slow == "answered"


async def test_a_request_that_cleans_up_for_too_long_is_cancelled_again() -> None:
    deadlines = Deadlines()
    async with asyncio.timeout(CUT_OFF_SECONDS + LOOK_SECONDS):
        assert await handled(deadlines, cleans_up) == "cut off"


async def test_answer_of_a_request_that_was_cut_off_is_still_sent() -> None:
    async def answers() -> None:
        with suppress(asyncio.CancelledError):
            await hang()

    deadlines = Deadlines()
    async with asyncio.timeout(CUT_OFF_SECONDS):
        assert await handled(deadlines, answers) == "answered"
        await asyncio.sleep(0)


async def test_other_cancellations_are_not_suppressed() -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await hang()
        await hang()

    deadlines = Deadlines()
    task = asyncio.create_task(handled(deadlines, stubborn))
    await asyncio.sleep(0)
    task.cancel()  # and the deadline cancels it a second time
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_after_a_pause_of_the_process_a_request_still_answers_by_itself() -> None:
    async def answers_late() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await hang()
        await asyncio.sleep(0)

    deadlines = Deadlines()
    request = asyncio.create_task(handled(deadlines, answers_late))
    await asyncio.sleep(0)
    time.sleep(CUT_OFF_SECONDS)  # noqa: ASYNC251 - the whole process stands still
    assert await request == "answered"


async def test_request_that_is_cut_off_is_counted_once() -> None:
    before = deadline.CUT_OFF._value.get()
    deadlines = Deadlines()
    assert await handled(deadlines, cleans_up) == "cut off"
    assert deadline.CUT_OFF._value.get() == before + 1


async def test_nothing_is_checked_while_there_are_no_requests() -> None:
    """A process has up to three listeners, most of them idle."""
    deadlines = Deadlines()

    async def stopped() -> bool:
        return not deadlines._waits

    assert await handled(deadlines, lambda: asyncio.sleep(0)) == "answered"
    await eventually(stopped, IDLE_SECONDS, "the end of the checks")
    assert await handled(deadlines, hang) == "cut off"
