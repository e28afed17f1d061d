"""Tracks the sagas that this process runs or is about to start, and lets callers wait until they end."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import Enum
from functools import partial
from typing import Any

from prometheus_client import Gauge

from services.order.domain import SagaId
from services.order.product_shards import ONE_PRODUCT_SERVICE, ProductShards
from services.order.saga import Saga
from services.order.store import Answer

RUNNING = Gauge("sagas_running", "Sagas that this process is running or about to start")
WITH_COUPON = Gauge("sagas_running_with_coupon", "Of those, the ones whose order is known to have a coupon")
OF_SHARD = Gauge("sagas_running_of_shard", "Of those, the ones with products of a product shard", ["participant"])


class Lane(Enum):
    """A group of sagas that stop together: while the coupon service is down, only orders with a coupon wait for it.

    Every order needs the product service, so the other lane needs no participant's name. But with several product
    shards, each of them is a lane too, under the name of its place: an order is in those of its products.
    """

    PLAIN = "plain"
    COUPON = "coupon"


def lane_of(coupon_id: str | None) -> Lane:
    """Return the lane of an order's sagas."""
    return Lane.PLAIN if coupon_id is None else Lane.COUPON


class SagaRegistry:
    """The sagas of this process. Each runs in its own task."""

    def __init__(self, shards: ProductShards = ONE_PRODUCT_SERVICE) -> None:
        self._shards = shards
        self.shard_lanes = shards.several
        self._tasks: dict[SagaId, asyncio.Task[Answer | None]] = {}
        self._claimed: set[SagaId] = set()
        self._lanes: dict[Lane | str, set[SagaId]] = {lane: set() for lane in (*Lane, *self.shard_lanes)}
        self._released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        RUNNING.set_function(lambda: self.count)
        WITH_COUPON.set_function(lambda: self.count_in(Lane.COUPON))
        for place in self.shard_lanes:
            OF_SHARD.labels(place).set_function(partial(self.count_in, place))

    @property
    def count(self) -> int:
        """Return how many sagas run here, or are about to start."""
        return len(self._tasks) + len(self._claimed)

    def count_in(self, lane: Lane | str) -> int:
        """Return how many of them are in a lane."""
        return len(self._lanes[lane])

    def lanes_of(self, coupon_id: str | None, products: Iterable[str]) -> tuple[Lane | str, ...]:
        """Return the lanes of an order's sagas."""
        lane = lane_of(coupon_id)
        return (lane, *{self._shards.place_of(product) for product in products}) if self.shard_lanes else (lane,)

    def has(self, saga_id: SagaId) -> bool:
        """Return whether a saga runs here, or is about to start."""
        return saga_id in self._tasks or saga_id in self._claimed

    def claim(self, saga_id: SagaId, *lanes: Lane | str) -> None:
        """Register a saga that is about to start here, so that the sweep does not run it a second time.

        `lanes`: those of its order, none if it is not known.
        """
        self._claimed.add(saga_id)
        for lane in lanes:
            self._lanes[lane].add(saga_id)

    def unclaim(self, saga_id: SagaId) -> None:
        """Undo `claim`. A saga that already runs stays registered."""
        self._claimed.discard(saga_id)
        if saga_id not in self._tasks:
            self._leave_lanes(saga_id)

    def begin(self, saga: Saga, work: Coroutine[Any, Any, Answer | None]) -> None:
        """Start a saga's work in a task. The work must call `ended` at its end."""
        self._tasks[saga.saga_id] = asyncio.create_task(work, name=f"saga {saga.saga_id}")
        self._claimed.discard(saga.saga_id)
        self._leave_lanes(saga.saga_id)
        for lane in self.lanes_of(saga.order.coupon_id, (line.product_id for line in saga.order.lines)):
            self._lanes[lane].add(saga.saga_id)

    def ended(self, saga_id: SagaId) -> None:
        """Remove a saga that no longer runs here."""
        self._tasks.pop(saga_id, None)
        self._leave_lanes(saga_id)

    def when_ended(self, saga_id: SagaId, then: Callable[[], None]) -> None:
        """Call `then` when a saga no longer runs here: now if it does not."""
        task = self._tasks.get(saga_id)
        if task is None:
            then()
        else:
            task.add_done_callback(lambda _: then())

    def _leave_lanes(self, saga_id: SagaId) -> None:
        for sagas in self._lanes.values():
            sagas.discard(saga_id)

    async def wait(self, saga_id: SagaId, seconds: float) -> Answer | None:
        """Return the answer of a saga that runs here; None after `seconds`, or if another process has taken it over."""
        task = self._tasks.get(saga_id)
        if task is None:
            return None
        # Not asyncio.wait: it costs four times as much, and every request waits here.
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        wake = partial(_wake, waiter)
        timer = loop.call_later(seconds, wake)
        task.add_done_callback(wake)
        self._released.add_done_callback(wake)
        try:
            await waiter
        finally:
            timer.cancel()
            task.remove_done_callback(wake)
            self._released.remove_done_callback(wake)
        return task.result() if task.done() and not task.cancelled() else None

    async def until_ended(self, saga_ids: Sequence[SagaId], count: int, seconds: float) -> None:
        """Wait until `count` of these sagas no longer run here, for `seconds` at most."""
        deadline = asyncio.get_running_loop().time() + seconds
        running = {self._tasks[saga_id] for saga_id in saga_ids if saga_id in self._tasks}
        enough = len(saga_ids) - count
        while len(running) > enough and (left := deadline - asyncio.get_running_loop().time()) > 0:
            _, running = await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def release_waiters(self) -> None:
        """End every current and future `wait`, because the process is about to stop."""
        if not self._released.done():
            self._released.set_result(None)

    @property
    def waiters_released(self) -> bool:
        """Return whether `release_waiters` was called."""
        return self._released.done()

    async def drain(self, seconds: float) -> None:
        """Wait up to `seconds` for the running sagas to end."""
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=seconds)

    async def cancel_all(self) -> None:
        """Cancel all running sagas. The process that takes them over continues them."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _wake(waiter: "asyncio.Future[None]", _: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)
