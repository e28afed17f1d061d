"""The expiry scheduler: closes orders that are unpaid and past `expires_at`. Safe in any number of replicas."""

import asyncio

import structlog
from prometheus_client import Counter

from services.order import store
from services.order.checkout import Checkout
from shared.postgres import Pool
from shared.refusals import Unavailable

log = structlog.get_logger()

EXPIRED = Counter("orders_expired_total", "Orders that this process began to expire")
BATCH_MAX = 200  # orders looked for at a time: a backlog is worked off batch by batch, without a pause between


class Expiry:
    """Looks for orders that are due, over and over."""

    def __init__(self, pool: Pool, checkout: Checkout, *, interval_seconds: float) -> None:
        self._pool = pool
        self._checkout = checkout
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Expire, for ever."""
        while True:
            try:
                await self._expire()
            except Unavailable as error:
                log.warning("expiry failed", error=str(error))
            await asyncio.sleep(self._interval_seconds)

    async def _expire(self) -> None:
        # No more than there is room for: after an outage, or while a participant is away, all that is due would be.
        while (limit := min(BATCH_MAX, self._checkout.room)) > 0:
            async with self._pool.connection() as db:
                due = await store.list_expired(db, limit)
            begun = await self._checkout.expire(due)
            EXPIRED.inc(begun)
            if len(due) < limit or begun == 0:
                return
