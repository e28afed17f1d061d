"""Turns that several batchers share, so that their batches are fewer and larger."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

# Longer than a large batch takes when nothing is wrong; what takes longer waits, and waiting needs no core.
TURN_SECONDS = 0.05
# Beside another batch: at 64 clients a quarter of what there is to do. Half as many cost a sixth more CPU a checkout,
# twice as many left a core idle (make bench-profile).
WORTH_A_TURN = 16
# Two trips through all batchers; then a batch leaves however small it is: nobody waits for company that doesn't come.
PASSED_MAX = 10
# Of the event loop, until what a batch has brought has reached the batcher of its next step.
ROUNDS_TO_THE_NEXT = 4


class Waiting(Protocol):
    """A batcher, for its turns."""

    @property
    def name(self) -> str:
        """Return what tells it from the others."""
        ...

    @property
    def waiting(self) -> int:
        """Return how many items wait in it."""
        ...


@dataclass(slots=True)
class _Waiter:
    """A batcher that waits for its turn; `passed` counts the others that came later and went before it."""

    turn: "asyncio.Future[None]"
    batcher: Waiting
    step: int
    passed: int = 0


class Turns:
    """Limits how many batches of several batchers are under way at once, so that they are larger.

    Every batch has a price beside its items'. Where callers and callees share a host, more batches under way than it
    has cores do not end earlier, they are only smaller; and one more beside others is worth its price only if it has
    some items. With nothing under way a lone item leaves at once.

    Of several that wait the earliest step goes first, if it has at least half as many items as any other: so those
    behind catch up with those ahead, and go on with them as one batch. The other way round they would follow each other
    in two batches for ever.

    A turn is for pacing and guards nothing: a batch that takes long (its callee is away) gives its turn back before it
    ends, so it never holds the others up.
    """

    def __init__(self, count: int, steps: Sequence[str]) -> None:
        """`steps`: the batchers' names in the order in which an item passes them."""
        self._count = count
        self._steps = {name: step for step, name in enumerate(steps)}
        self._free = count
        self._waiting: list[_Waiter] = []

    @asynccontextmanager
    async def turn(self, batcher: Waiting) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the body runs, or for TURN_SECONDS."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(_Waiter(turn, batcher, self._steps[batcher.name]))
        self._reconsider()
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting = [waiter for waiter in self._waiting if waiter.turn is not turn]
            if turn.done() and not turn.cancelled():
                self._give_back()  # it was given in the same moment
            raise
        given_back: list[None] = []

        def give_back() -> None:
            if not given_back:
                given_back.append(None)
                self._give_back()

        late = loop.call_later(TURN_SECONDS, give_back)
        try:
            yield
            # Else the turn would go to who waits now, and what this batch has brought would go after that, alone.
            for _ in range(ROUNDS_TO_THE_NEXT):
                await asyncio.sleep(0)
        finally:
            late.cancel()
            give_back()

    def grown(self, before: int, now: int) -> None:
        """Take note of how many items waited in a batcher, and how many wait now."""
        if before < WORTH_A_TURN <= now:
            self._reconsider()

    def _reconsider(self) -> None:
        """Give the turns that are free to those that are to go next."""
        # Those that are cancelled in this very moment have not taken themselves out yet.
        self._waiting = [waiter for waiter in self._waiting if not waiter.turn.done()]
        while self._free > 0 and (waiter := self._next()) is not None:
            for passed in self._waiting[: self._waiting.index(waiter)]:
                passed.passed += 1
            self._waiting.remove(waiter)
            self._free -= 1
            waiter.turn.set_result(None)

    def _next(self) -> _Waiter | None:
        if not self._waiting:
            return None
        if late := [waiter for waiter in self._waiting if waiter.passed >= PASSED_MAX]:
            return late[0]
        most = max(waiter.batcher.waiting for waiter in self._waiting)
        if self._free < self._count and most < WORTH_A_TURN:
            return None
        least = most / 2 if self._free == self._count else max(most / 2, WORTH_A_TURN)
        return min((w for w in self._waiting if w.batcher.waiting >= least), key=lambda waiter: waiter.step)

    def _give_back(self) -> None:
        self._free += 1
        self._reconsider()
