"""Turns: batches under way are few and large, nobody waits for ever, and nobody holds up who could go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from shared import turns as module
from shared.batcher import Batcher
from shared.turns import Turns
from tests.unit.shared.work import Work

STEPS = [str(step) for step in range(20)]


def batcher(step: int, work: Work, turns: Turns) -> Batcher[int, int]:
    return Batcher(STEPS[step], work, batch_max=8, queue_max=50, turns=turns)


async def all_that_can_run() -> None:
    for _ in range(3 * module.ROUNDS_TO_THE_NEXT):
        await asyncio.sleep(0)


@asynccontextmanager
async def beside_a_batch(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Batcher[int, int], Work]]:
    """A batcher and its work, while a batch of another has one of two turns; three items are worth the second."""
    monkeypatch.setattr(module, "WORTH_A_TURN", 3)
    monkeypatch.setattr(module, "TURN_SECONDS", 60)
    busy, work = Work(), Work()
    turns = Turns(2, STEPS)
    async with batcher(0, busy, turns) as first, batcher(1, work, turns) as second:
        alone = first.submit(1)
        await busy.started.wait()
        try:
            yield second, work
        finally:
            busy.through.set()
            work.through.set()
        assert await alone == 10


async def test_batchers_that_share_turns_have_no_more_batches_under_way_than_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WORTH_A_TURN", 1)
    works = [Work() for _ in range(3)]
    turns = Turns(2, STEPS)
    async with AsyncExitStack() as stack:
        batchers = [await stack.enter_async_context(batcher(step, work, turns)) for step, work in enumerate(works)]
        results = [each.submit(number) for number, each in enumerate(batchers)]
        await asyncio.gather(*(work.started.wait() for work in works[:2]))
        more = batchers[2].submit(7)  # joins the batch that waits for its turn
        assert works[2].batches == []
        works[0].through.set()
        await works[2].started.wait()
        assert works[2].batches == [[2, 7]]
        works[1].through.set()
        works[2].through.set()
        assert await asyncio.gather(*results, more) == [0, 10, 20, 70]


async def test_a_batch_leaves_beside_another_as_soon_as_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with beside_a_batch(monkeypatch) as (batches, work):
        results = [batches.submit(2), batches.submit(3)]
        await all_that_can_run()
        assert work.batches == []
        results.append(batches.submit(4))
        await work.started.wait()
        assert work.batches == [[2, 3, 4]]
        work.through.set()
        assert await asyncio.gather(*results) == [20, 30, 40]


async def test_items_that_come_together_and_are_more_than_are_worth_it_leave_as_well(
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


async def test_a_small_batch_is_passed_over_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASSED_MAX", 2)
    turns = Turns(1, STEPS)
    async with AsyncExitStack() as stack:
        works = [Work() for _ in range(5)]
        first, *others, small = [
            await stack.enter_async_context(batcher(step, work, turns)) for step, work in enumerate(works)
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
async def test_those_behind_catch_up_with_those_ahead_unless_they_are_few(ahead: int, behind: int, first: str) -> None:
    turns = Turns(1, STEPS)
    busy, earlier, later = Work(), Work(), Work()
    async with batcher(0, busy, turns) as zero, batcher(1, earlier, turns) as one, batcher(2, later, turns) as two:
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


async def test_what_a_batch_brought_goes_on_together_with_who_waits_there() -> None:
    turns = Turns(1, STEPS)
    first, second = Work(), Work()
    second.through.set()
    async with batcher(0, first, turns) as zero, batcher(1, second, turns) as one:

        async def both_steps(number: int) -> int:
            return await one.submit(await zero.submit(number))

        trips = [asyncio.create_task(both_steps(number)) for number in (1, 2)]
        await first.started.wait()
        waits = one.submit(7)
        await all_that_can_run()
        first.through.set()
        assert await asyncio.gather(*trips, waits) == [100, 200, 70]
    assert second.batches == [[7, 10, 20]]


@asynccontextmanager
async def first_and_last(
    monkeypatch: pytest.MonkeyPatch, *, turn_seconds: float = 60
) -> AsyncIterator[tuple[Batcher[int, int], Batcher[int, int], Work, Work]]:
    """Two steps with one turn, and their work; the first step's is let through. Clients are waited for long."""
    monkeypatch.setattr(module, "TURN_SECONDS", turn_seconds)
    monkeypatch.setattr(module, "COME_BACK_SECONDS", 5)
    turns, firsts, lasts = Turns(1, STEPS[:2]), Work(), Work()
    firsts.through.set()
    async with batcher(0, firsts, turns) as first, batcher(1, lasts, turns) as last:
        yield first, last, firsts, lasts


@dataclass
class Clients:
    """Three clients on their way through the last of two steps, and one who waits for the first."""

    first: Batcher[int, int]
    firsts: Work
    lasts: Work
    leaving: "list[asyncio.Future[int]]"
    waits: "asyncio.Future[int]"

    async def are_answered(self) -> None:
        self.lasts.through.set()
        await asyncio.gather(*self.leaving)

    async def are_not_waited_for(self) -> None:
        await self.are_answered()
        assert await asyncio.wait_for(self.waits, 2) == 40


@pytest.fixture
async def clients(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clients]:
    monkeypatch.setattr(module, "COME_BACK_MIN", 3)
    async with first_and_last(monkeypatch) as (first, last, firsts, lasts):
        leaving = [last.submit(number) for number in (1, 2, 3)]
        await lasts.started.wait()
        yield Clients(first, firsts, lasts, leaving, first.submit(4))


async def test_who_waits_goes_together_with_clients_who_come_back(clients: Clients) -> None:
    await clients.are_answered()
    await all_that_can_run()
    back = [clients.first.submit(number) for number in (1, 2)]
    await all_that_can_run()
    assert clients.firsts.batches == []
    back.append(clients.first.submit(3))
    assert await asyncio.gather(clients.waits, *back) == [40, 10, 20, 30]
    assert clients.firsts.batches == [[4, 1, 2, 3]]


async def test_clients_who_are_back_at_once_are_not_waited_for_any_more(clients: Clients) -> None:
    await clients.are_answered()
    back = [clients.first.submit(number) for number in (1, 2, 3)]
    assert await asyncio.wait_for(asyncio.gather(clients.waits, *back), 2) == [40, 10, 20, 30]


async def test_nobody_waits_long_for_clients_who_do_not_come_back(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COME_BACK_SECONDS", 0)
    await clients.are_not_waited_for()


async def test_few_clients_are_not_waited_for(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COME_BACK_MIN", 4)
    await clients.are_not_waited_for()


async def test_only_those_who_were_answered_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with first_and_last(monkeypatch) as (first, last, _, lasts):
        leaving = [last.submit(number) for number in range(12)]  # four of them stay for the next batch
        await lasts.started.wait()
        lasts.through.set()
        await asyncio.gather(*leaving[:8])
        back = [first.submit(number) for number in range(8)]
        await asyncio.wait_for(asyncio.gather(*back, *leaving), 2)
    assert [len(batch) for batch in lasts.batches] == [8, 4]


async def test_those_who_went_away_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with first_and_last(monkeypatch) as (first, last, _, lasts):
        for gone in [last.submit(number) for number in range(8)]:
            gone.cancel()
        assert await asyncio.wait_for(first.submit(9), 2) == 90
    assert lasts.batches == []


async def test_after_a_batch_that_took_long_clients_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COME_BACK_MIN", 1)
    async with asyncio.timeout(2), first_and_last(monkeypatch, turn_seconds=0.0) as (first, last, _, lasts):
        leaving = last.submit(1)
        await lasts.started.wait()
        assert await first.submit(2) == 20  # the turn is given back
        lasts.through.set()
        assert await leaving == 10


async def test_a_batch_that_takes_long_does_not_keep_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 0.0)
    hanging, work = Work(), Work()
    work.through.set()
    turns = Turns(1, STEPS)
    async with (
        batcher(0, hanging, turns) as first,
        batcher(1, work, turns) as second,
    ):
        late = first.submit(1)
        await hanging.started.wait()
        assert await second.submit(2) == 20
        hanging.through.set()
        assert await late == 10
        assert (await first.submit(3), await second.submit(4)) == (30, 40)


async def test_a_turn_that_is_given_to_who_was_cancelled_meanwhile_is_passed_on() -> None:
    turns = Turns(1, STEPS)
    entered = asyncio.Event()

    idle = batcher(0, Work(), turns)

    async def have() -> None:
        async with turns.turn(idle):
            entered.set()

    async with turns.turn(idle):
        gone, next_one = asyncio.create_task(have()), asyncio.create_task(have())
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, next_one, return_exceptions=True)
    assert entered.is_set()
    async with turns.turn(idle):
        pass
