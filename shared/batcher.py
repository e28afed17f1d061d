"""Natural batching: while a batch is in flight, whatever arrives waits and goes in the next one.

At low load a lone item leaves at once, so batching adds no delay; at high load batches grow and the cost
of each item falls. There is no linger timer: measured, timers lost.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import structlog
from prometheus_client import Counter, Gauge, Histogram

from shared.background import essential, is_survivable
from shared.pacing import BatchScheduler
from shared.refusals import Unavailable

log = structlog.get_logger()

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]]
Deliver = Callable[[Result | BaseException], None]
# The item, the future that its waiter has, and what gives it the result.
_Queued = tuple[Item, "asyncio.Future[Any]", Deliver[Result]]

SIZE = Histogram("batch_size", "Items in a batch", ["batcher"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
WAITING = Gauge("batch_waiting", "Items waiting for their batch", ["batcher"])
SPLIT = Counter("batches_split_total", "Batches that failed as a whole and were retried one by one")
FULL = Counter("batch_queue_full_total", "Items refused because the queue was full", ["batcher"])


def one_by_one_when(splits: Callable[[Exception], bool], work: Work[Item, Result]) -> Work[Item, Result]:
    """Return `work` that, when a whole batch fails with what `splits` names, does its items one by one.

    So an item that can't be done fails alone, instead of its neighbours with it, for ever.
    """

    async def run(items: Sequence[Item]) -> Sequence[Result | BaseException]:
        try:
            return await work(items)
        except Exception as error:
            if len(items) == 1 or not splits(error):
                raise
            SPLIT.inc()
            log.warning("batch failed, retrying one by one", size=len(items), error=repr(error))
        results: list[Result | BaseException] = []
        for item in items:
            try:
                results.extend(await work([item]))
            except Exception as error:  # noqa: BLE001 - it is this item's result
                results.append(error)
        return results

    return run


class Batcher(Generic[Item, Result]):
    """Collects items and hands them to `work` in batches, one batch in flight.

    `work` gets 1..batch_max items and returns one result or exception an item, in the same order. When it
    raises, every item of that batch fails with that exception. Batches run in the batcher's own task, so a
    waiter that is cancelled (a client that hung up) never cancels the batch it is part of. An item that nobody waits
    for any more before its batch begins is left out.
    """

    def __init__(
        self,
        name: str,
        work: Work[Item, Result],
        *,
        batch_max: int,
        queue_max: int,
        scheduler: BatchScheduler | None = None,
    ) -> None:
        self.name = name
        self._work = work
        self._scheduler = scheduler
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._queue: deque[_Queued[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.last_batch_size = 0  # in the last batch
        self._size = SIZE.labels(name)
        self._full = FULL.labels(name)
        WAITING.labels(name).set_function(lambda: len(self._queue))

    async def __aenter__(self) -> "Batcher[Item, Result]":
        self._loop = asyncio.get_running_loop()
        self._task = essential(f"batcher {self.name}", self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what is queued and waited for, then stop."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task

    @property
    def waiting(self) -> int:
        """Return how many items wait for their batch."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Say whether a further item would be refused."""
        return len(self._queue) >= self._queue_max

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Queue an item and return the future of its result. Raises Unavailable when the queue is full."""
        if self._closing or self.full:
            self._full.inc()
            raise Unavailable("The queue is full.")
        future: asyncio.Future[Result] = self._loop.create_future()
        self._queue.append((item, future, partial(_settle, future)))
        self._queued(1)
        return future

    def submit_all(self, items: Sequence[Item]) -> "asyncio.Future[list[Result | BaseException]]":
        """Queue items and return the future of their results: one future for them all costs far less than one each.

        They may go in several batches. Raises Unavailable when the queue has no room for all of them.
        """
        if self._closing or len(self._queue) + len(items) > self._queue_max:
            self._full.inc(len(items))
            raise Unavailable("The queue is full.")
        gathered: _Gathered[Result] = _Gathered(len(items))
        future = gathered.future
        self._queue.extend((item, future, partial(gathered.take, place)) for place, item in enumerate(items))
        self._queued(len(items))
        return future

    def _queued(self, count: int) -> None:
        self._arrived.set()
        if self._scheduler is not None:
            self._scheduler.on_enqueued(self, count)

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            if self._scheduler is None:
                await self._run_batch(self._next_batch())
                continue
            async with self._scheduler.slot(self):
                await self._run_batch(self._next_batch())

    def _next_batch(self) -> list[_Queued[Item, Result]]:
        batch: list[_Queued[Item, Result]] = []
        while self._queue and len(batch) < self._batch_max:
            queued = self._queue.popleft()
            if not queued[1].done():  # else its waiter was cancelled
                batch.append(queued)
        self.last_batch_size = len(batch)
        return batch

    async def _run_batch(self, batch: list[_Queued[Item, Result]]) -> None:
        if not batch:
            return
        self._size.observe(len(batch))
        results: Sequence[Result | BaseException]
        try:
            results = await self._work([item for item, _, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"a batch of {len(batch)} returned {len(results)} results")
        except Exception as error:  # noqa: BLE001 - every waiter gets it
            results = [error] * len(batch)
        except asyncio.CancelledError as error:
            if not is_survivable(error):
                raise
            results = [Unavailable("The batch was cut off.")] * len(batch)
        for (_, _, deliver), result in zip(batch, results, strict=True):
            deliver(result)


def _settle(future: "asyncio.Future[Result]", result: Result | BaseException) -> None:
    if future.done():  # its waiter was cancelled
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


class _Gathered(Generic[Result]):
    """The results of several items, until the last has arrived."""

    def __init__(self, count: int) -> None:
        self.future: asyncio.Future[list[Result | BaseException]] = asyncio.get_running_loop().create_future()
        self._results: dict[int, Result | BaseException] = {}
        self._count = count
        if not count:
            self.future.set_result([])

    def take(self, place: int, result: Result | BaseException) -> None:
        self._results[place] = result
        if len(self._results) == self._count and not self.future.done():  # done: its waiter was cancelled
            self.future.set_result([self._results[place] for place in range(self._count)])
