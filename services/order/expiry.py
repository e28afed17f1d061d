"""The expiry scheduler: closes orders that are unpaid and past `expires_at`. Safe in any number of replicas."""

import asyncio

import structlog
from prometheus_client import Counter

from services.order import store
from services.order.admission import Admission
from services.order.checkout import Checkout
from services.order.domain import SagaId
from services.order.runner import Runner
from shared.postgres import Pool
from shared.refusals import Unavailable

log = structlog.get_logger()

EXPIRED = Counter("orders_expired_total", "Orders that this process began to expire")
BATCH_MAX = 200  # orders looked for at a time: a backlog is worked off batch by batch, without a pause between


class Expiry:
    """Looks for orders that are due, over and over."""

    def __init__(
        self, pool: Pool, checkout: Checkout, runner: Runner, admission: Admission, *, interval_seconds: float
    ) -> None:
        self._pool = pool
        self._checkout = checkout
        self._runner = runner
        self._admission = admission
        self._interval_seconds = interval_seconds
        self._under_way: set[SagaId] = set()

    async def run(self) -> None:
        """Expire, for ever."""
        while True:
            try:
                await self._expire()
            except Unavailable as error:
                log.warning("expiry failed", error=str(error))
            await asyncio.sleep(self._interval_seconds)

    async def _expire(self) -> None:
        while (limit := self._room()) > 0:
            async with self._pool.connection() as db:
                due = await store.list_expired(db, limit)
            begun = await self._checkout.expire(due)
            EXPIRED.inc(len(begun))
            self._under_way.update(begun)
            if len(due) < limit or not begun:
                return
            await self._runner.drain(self._interval_seconds, begun)

    def _room(self) -> int:
        """Return how many may be begun: after an outage, or while a participant is away, not all that is due."""
        self._under_way = {saga_id for saga_id in self._under_way if self._runner.has(saga_id)}
        return min(BATCH_MAX, self._admission.room, self._admission.expiring_max - len(self._under_way))
