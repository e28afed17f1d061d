"""What is forgotten of orders that are past: gates with their outcomes.

Only a late do could ask for them. What an undo needs is kept for ever: the coupons that orders have.
"""

from collections.abc import Sequence
from uuid import UUID

from services.coupon import store
from shared.postgres import Connection


async def prune_gates(db: Connection, after: UUID, limit: int) -> Sequence[UUID]:
    """Forget up to `limit` orders past the horizon, after an id, in the caller's transaction; return which.

    Only gates that nobody uses are taken, and everything else is deleted under them: no batch is waited for.
    """
    orders = await store.lock_gates_to_prune(db, after, limit)
    if orders:
        await store.delete_outcomes(db, orders)
        await store.delete_gates(db, orders)
    return orders
