"""Turns that several batchers share, so that their batches are fewer and larger."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

# Longer than a large batch takes when nothing is wrong; what takes longer waits, and waiting needs no core.
TURN_SECONDS = 0.05
# Beside another batch: at 64 clients a quarter of what there is to do. Half as many cost a sixth more CPU a checkout,
# twice as many left a core idle (make bench-profile).
WORTH_A_TURN = 16
# Two trips through all batchers; then a batch leaves however small it is: nobody waits for company that doesn't come.
PASSED_MAX = 10
# Of the most that wait anywhere; with as many the earliest step goes first. Three checkouts in ten have a coupon, and
# at a half those without one would leave them behind: they need a batch of their own then at each step that is left.
CATCHES_UP_FROM = 1 / 3
# While fewer wait anywhere, a half: who is nearly done would wait for each newcomer, and batches stay small anyway.
MANY = 8
CATCHES_UP_FROM_OF_FEW = 1 / 2
# Of the event loop, until what a batch has brought has reached the batcher of its next step.
ROUNDS_TO_THE_NEXT = 4
# Until clients that got their answer have come back, on a busy host.
COME_BACK_SECONDS = 0.002
# Of fewer that were answered, those who come meanwhile would wait longer than a larger batch is worth.
COME_BACK_MIN = 4


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

    @property
    def let_go(self) -> int:
        """Return how many items its last batch had."""
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

    Of several that wait the earliest step goes first, unless others have far more items: so those behind catch up with
    those ahead, and go on with them as one batch. The other way round they would follow each other in two batches for
    ever. So would clients who come back from the last step while the first one has left with who came before them:
    the turn of a last batch lasts until as many have come as it let go, or for COME_BACK_SECONDS.

    A turn is for pacing and guards nothing: a batch that takes long (its callee is away) gives its turn back before it
    ends, so it never holds the others up.
    """

    def __init__(self, count: int, steps: Sequence[str]) -> None:
        """`steps`: the batchers' names in the order in which an item passes them."""
        self._count = count
        self._steps = {name: step for step, name in enumerate(steps)}
        self._free = count
        self._waiting: list[_Waiter] = []
        self._last = len(steps) - 1
        self._come = 0  # to the first step, ever
        self._awaited = 0
        self._as_many_as_awaited = asyncio.Event()

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
            if not given_back:
                await self._until_it_went_on(self._steps[batcher.name], batcher.let_go)
        finally:
            late.cancel()
            give_back()

    def grown(self, batcher: Waiting, count: int) -> None:
        """Take note that so many items have come to a batcher."""
        if batcher.waiting - count < WORTH_A_TURN <= batcher.waiting:
            self._reconsider()
        if self._steps[batcher.name] == 0:
            self._come += count
            if self._come >= self._awaited:
                self._as_many_as_awaited.set()

    async def _until_it_went_on(self, step: int, size: int) -> None:
        """Wait until what a batch has brought has reached its next step, and after the last one until clients are back.

        Else the turn would go to who waits now, and they would go after that, alone.
        """
        come_back = self._come + size
        for _ in range(ROUNDS_TO_THE_NEXT):
            await asyncio.sleep(0)
        if step < self._last or size < COME_BACK_MIN or self._come >= come_back:
            return
        self._awaited = come_back
        self._as_many_as_awaited.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(COME_BACK_SECONDS):
                await self._as_many_as_awaited.wait()

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
        least = most * (CATCHES_UP_FROM if most >= MANY else CATCHES_UP_FROM_OF_FEW)
        if self._free < self._count:
            least = max(least, WORTH_A_TURN)
        return min((w for w in self._waiting if w.batcher.waiting >= least), key=lambda waiter: waiter.step)

    def _give_back(self) -> None:
        self._free += 1
        self._reconsider()
