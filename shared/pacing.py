"""Limits how many batches of several batchers are in flight at the same time, so that batches are fewer and larger."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

# Longer than a large batch takes in normal operation. A slower batch waits for its callee, which needs no core here.
SLOT_SECONDS = 0.05
# While another batch is in flight: at 64 clients, a quarter of all items. Half as many cost a sixth more CPU a
# checkout; twice as many left a core idle (make bench-profile).
MIN_CONCURRENT_BATCH = 16
# Two passes through all batchers. Then a batch starts however small it is: no item waits longer for more items.
PASSED_MAX = 10
# As a share of the longest queue: from here on the earliest step goes first. Three checkouts in ten have a coupon. With
# a half, checkouts without a coupon would pass them, and the others would need a batch of their own at each later step.
CATCH_UP_SHARE = 1 / 3
# While every queue is shorter than LONG_QUEUE, a half: each new item would otherwise delay the checkouts that are
# nearly done, and batches stay small anyway.
LONG_QUEUE = 8
CATCH_UP_SHARE_SHORT_QUEUES = 1 / 2
# Iterations of the event loop until the results of a batch have been queued in the batcher of the next step.
LOOP_ITERATIONS_TO_NEXT_STEP = 4
# Time for clients that got their answer to send the next request, on a busy host.
CLIENT_RETURN_SECONDS = 0.002
# If fewer were answered, the other items would wait longer than a larger batch is worth.
CLIENT_RETURN_MIN = 4


class Waiting(Protocol):
    """What the scheduler needs to know of a batcher. `name` is one of the scheduler's steps."""

    name: str
    last_batch_size: int

    @property
    def waiting(self) -> int:
        """Return how many items wait in the queue."""
        ...


@dataclass(slots=True)
class _Waiter:
    """A batcher that waits for a slot; `passed` counts later waiters that got a slot first."""

    slot: "asyncio.Future[None]"
    batcher: Waiting
    step: int
    passed: int = 0


class BatchScheduler:
    """Limits how many batches of several batchers are in flight at the same time, so that they are larger.

    Each batch has a fixed cost beside the cost of its items. Where callers and callees share a host, more batches than
    cores do not end earlier; they are only smaller. While other batches are in flight, a batch needs a minimum size to
    be worth its fixed cost. While nothing is in flight, a single item starts immediately.

    Among waiting batchers, the earliest step goes first, unless a later one has far more items. Items behind then catch
    up with items ahead, and both continue as one batch. In the other order, they would stay two batches for ever. The
    same holds for clients that return after the last step: the slot of a last step's batch is kept until as many
    requests have arrived as it answered, or for CLIENT_RETURN_SECONDS.

    A slot is for pacing and protects nothing. A batch that takes long (its callee does not answer) gives its slot back
    before it ends, so it never delays the other batchers.
    """

    def __init__(self, count: int, steps: Sequence[str]) -> None:
        """`count`: slots. `steps`: the batchers' names in the order in which an item passes them."""
        self._count = count
        self._steps = {name: step for step, name in enumerate(steps)}
        self._free = count
        self._waiting: list[_Waiter] = []
        self._last = len(steps) - 1
        self._arrived = 0  # at the first step, ever
        self._awaited = 0
        self._as_many_as_awaited = asyncio.Event()

    @asynccontextmanager
    async def slot(self, batcher: Waiting) -> AsyncIterator[None]:
        """Wait for a slot; keep it while the body runs, for at most SLOT_SECONDS."""
        loop = asyncio.get_running_loop()
        slot: asyncio.Future[None] = loop.create_future()
        self._waiting.append(_Waiter(slot, batcher, self._steps[batcher.name]))
        self._reconsider()
        try:
            await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled():
                self._give_back()  # it was given together with the cancellation
            raise
        given_back: list[None] = []

        def give_back() -> None:
            if not given_back:
                given_back.append(None)
                self._give_back()

        late = loop.call_later(SLOT_SECONDS, give_back)
        try:
            yield
            if not given_back:
                await self._until_queued_at_the_next_step(self._steps[batcher.name], batcher.last_batch_size)
        finally:
            late.cancel()
            give_back()

    def on_enqueued(self, batcher: Waiting, count: int) -> None:
        """Take into account that `count` items were queued in a batcher."""
        if batcher.waiting - count < MIN_CONCURRENT_BATCH <= batcher.waiting:
            self._reconsider()
        if self._steps[batcher.name] == 0:
            self._arrived += count
            if self._arrived >= self._awaited:
                self._as_many_as_awaited.set()

    async def _until_queued_at_the_next_step(self, step: int, size: int) -> None:
        """Wait until a batch's results are queued at the next step; after the last step, until clients have returned.

        Otherwise the items that already wait would get the slot, and these would follow in a batch of their own.
        """
        awaited = self._arrived + size
        for _ in range(LOOP_ITERATIONS_TO_NEXT_STEP):
            await asyncio.sleep(0)
        if step < self._last or size < CLIENT_RETURN_MIN or self._arrived >= awaited:
            return
        self._awaited = awaited
        self._as_many_as_awaited.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLIENT_RETURN_SECONDS):
                await self._as_many_as_awaited.wait()

    def _reconsider(self) -> None:
        """Give free slots to the batchers that go next."""
        # Without the waiters that were cancelled.
        self._waiting = [waiter for waiter in self._waiting if not waiter.slot.done()]
        while self._free > 0 and (waiter := self._next()) is not None:
            for passed in self._waiting[: self._waiting.index(waiter)]:
                passed.passed += 1
            self._waiting.remove(waiter)
            self._free -= 1
            waiter.slot.set_result(None)

    def _next(self) -> _Waiter | None:
        if not self._waiting:
            return None
        if late := [waiter for waiter in self._waiting if waiter.passed >= PASSED_MAX]:
            return late[0]
        most = max(waiter.batcher.waiting for waiter in self._waiting)
        if self._free < self._count and most < MIN_CONCURRENT_BATCH:
            return None
        least = most * (CATCH_UP_SHARE if most >= LONG_QUEUE else CATCH_UP_SHARE_SHORT_QUEUES)
        if self._free < self._count:
            least = max(least, MIN_CONCURRENT_BATCH)
        return min((w for w in self._waiting if w.batcher.waiting >= least), key=lambda waiter: waiter.step)

    def _give_back(self) -> None:
        self._free += 1
        self._reconsider()
