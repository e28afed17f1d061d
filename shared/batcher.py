"""Natural batching: items that arrive while a batch is in flight form the next batch.

At low load a single item starts immediately, so batching adds no delay. At high load batches grow, and the cost of each
item falls. There is no linger timer: in measurements, timers were slower.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import structlog
from prometheus_client import Counter, Gauge, Histogram

from shared.pacing import BatchScheduler
from shared.process.tasks import essential, is_survivable
from shared.refusals import Unavailable
from shared.tracing import spans
from shared.tracing.spans import Span, SpanKind

log = structlog.get_logger()

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]]
Deliver = Callable[[Result | BaseException], None]
# The item, its caller's future, the function that delivers the result, and the span to which the item belongs.
_Queued = tuple[Item, "asyncio.Future[Any]", Deliver[Result], Span]

SIZE = Histogram("batch_size", "Items in a batch", ["batcher"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
WAITING = Gauge("batch_waiting", "Items waiting for their batch", ["batcher"])
WAITING_MAX = Gauge("batch_waiting_max", "Items that may wait for their batch", ["batcher"])
SPLIT = Counter("batches_split_total", "Batches that failed as a whole and were retried one by one")
FULL = Counter("batch_queue_full_total", "Items refused because the queue was full", ["batcher"])


def one_by_one_when(splits: Callable[[Exception], bool], work: Work[Item, Result]) -> Work[Item, Result]:
    """Return `work` that retries a failed batch one by one, if `splits` returns true for its error.

    So an item that always fails does so alone, and the others of its batch succeed.
    """

    async def run(items: Sequence[Item]) -> Sequence[Result | BaseException]:
        try:
            return await work(items)
        except Exception as error:
            if len(items) == 1 or not splits(error):
                raise
            SPLIT.inc()
            spans.current.get().event("split")
            log.warning("batch.split", size=len(items), error=repr(error))
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

    `work` takes 1..batch_max items and returns one result or exception for each, in the same order. If it raises, every
    item of that batch fails with that exception. Batches run in the batcher's own task, so a cancelled caller (a client
    that disconnected) never cancels a batch. An item whose caller was cancelled before its batch began is left out.
    """

    def __init__(
        self,
        name: str,
        work: Work[Item, Result],
        *,
        batch_max: int,
        queue_max: int,
        scheduler: BatchScheduler | None = None,
        span_kind: SpanKind = "internal",
    ) -> None:
        """`span_kind`: client if `work` calls another service, which then continues the batch's span."""
        self.name = name
        self._span_name, self._span_kind = f"batch {name}", span_kind
        self._work = work
        self._scheduler = scheduler
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._queue: deque[_Queued[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.last_batch_size = 0
        self._size = SIZE.labels(name)
        self._full = FULL.labels(name)
        WAITING.labels(name).set_function(lambda: len(self._queue))
        WAITING_MAX.labels(name).set(queue_max)

    async def __aenter__(self) -> "Batcher[Item, Result]":
        self._loop = asyncio.get_running_loop()
        self._task = essential(f"batcher {self.name}", self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the queued items that callers still wait for, then stop."""
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
        """Return whether a further item would be refused."""
        return len(self._queue) >= self._queue_max

    def submit(self, item: Item, span: Span | None = None) -> "asyncio.Future[Result]":
        """Queue an item and return the future of its result. Raises Unavailable when the queue is full.

        `span`: to which the item belongs, by default the current one. The batch's span is linked to it.
        """
        if self._closing or self.full:
            self._full.inc()
            raise Unavailable("The queue is full.")
        future: asyncio.Future[Result] = self._loop.create_future()
        self._queue.append((item, future, partial(_resolve, future), span or spans.current.get()))
        self._queued(1)
        return future

    def submit_all(self, items: Sequence[Item]) -> "asyncio.Future[list[Result | BaseException]]":
        """Queue items and return one future of all results, which costs far less than a future for each.

        The items may be in several batches. Raises Unavailable if the queue has too little capacity for all of them.
        """
        if self._closing or len(self._queue) + len(items) > self._queue_max:
            self._full.inc(len(items))
            raise Unavailable("The queue is full.")
        gathered: _Gathered[Result] = _Gathered(len(items))
        future = gathered.future
        span = spans.current.get()
        self._queue.extend((item, future, partial(gathered.take, place), span) for place, item in enumerate(items))
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
        span = spans.enter(spans.batch(self._span_name, (queued[3] for queued in batch), self._span_kind))
        span.set({"batch.size": len(batch)})
        try:
            results = await self._work([queued[0] for queued in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"a batch of {len(batch)} returned {len(results)} results")
        except Exception as error:  # noqa: BLE001 - every waiter gets it
            span.fail(error)
            results = [error] * len(batch)
        except asyncio.CancelledError as error:
            if not is_survivable(error):
                raise
            results = [Unavailable("The batch was cut off.")] * len(batch)
        span.end()
        for (_, _, deliver, _), result in zip(batch, results, strict=True):
            deliver(result)


def _resolve(future: "asyncio.Future[Result]", result: Result | BaseException) -> None:
    if future.done():  # its waiter was cancelled
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


class _Gathered(Generic[Result]):
    """Collects the results of several items until the last one has arrived."""

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
