"""The expiry scheduler: closes orders that are unpaid and past `expires_at`. Safe in any number of replicas."""

import asyncio

from prometheus_client import Counter

from services.order import store
from services.order.checkout import Checkout
from services.order.domain import SagaId
from services.order.engine.admission import Admission
from services.order.engine.registry import Lane, SagaRegistry
from shared.postgres.connections import Pool
from shared.process.tasks import LoopSupervisor

EXPIRED = Counter("orders_expired_total", "Orders that this process began to expire")


class Expiry:
    """Expires due orders in one loop per lane, so that orders without a coupon don't wait for the coupon service."""

    def __init__(
        self, pool: Pool, checkout: Checkout, registry: SagaRegistry, admission: Admission, *, interval_seconds: float
    ) -> None:
        self._pool = pool
        self._checkout = checkout
        self._registry = registry
        self._admission = admission
        self._interval_seconds = interval_seconds
        self._under_way: dict[Lane, set[SagaId]] = {lane: set() for lane in Lane}

    async def run(self) -> None:
        """Expire due orders, for ever."""
        async with asyncio.TaskGroup() as loops:
            for lane in Lane:
                loops.create_task(self._run(lane))

    async def _run(self, lane: Lane) -> None:
        supervisor = LoopSupervisor("expiry", "expiry.failed")
        while True:
            with supervisor:
                await self._expire(lane)
            await asyncio.sleep(supervisor.pause(self._interval_seconds))

    async def _expire(self, lane: Lane) -> None:
        while (limit := self._available(lane)) > 0:
            self._admission.check_fitness()
            async with self._pool.connection() as db:
                due = await store.list_expired(db, limit, coupon=lane is Lane.COUPON)
            begun = await self._checkout.expire(due[: max(0, self._available(lane))], lane)
            EXPIRED.inc(len(begun))
            self._under_way[lane].update(begun)
            if len(due) < limit or not begun:
                return
            # Wait until half of them have ended. With fewer, a query finds few orders; with more, capacity is idle.
            under_way = list(self._under_way[lane])
            await self._registry.until_ended(under_way, (len(begun) + 1) // 2, self._interval_seconds)

    def _available(self, lane: Lane) -> int:
        """Return how many more orders of a lane may expire now. After an outage, more orders may be due."""
        under_way = {saga_id for saga_id in self._under_way[lane] if self._registry.has(saga_id)}
        self._under_way[lane] = under_way
        return self._admission.available_to_expiry(len(under_way))
