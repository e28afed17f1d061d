"""Raises participants' horizons much sooner than in production, and prunes the orders that are past them.

An order that is pruned in the middle of its saga is refused. It must have no other effect.
"""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from services.balance import store as balance_store
from services.coupon import store as coupon_store
from services.order.product_shards import participant_at
from services.order.saga import Participant
from services.product import store as product_store
from shared.refusals import Unavailable
from tests.simulation.links import LinkedPool
from tests.simulation.world import World

LAST_ORDER = UUID(int=2**128 - 1)
PRUNE: Mapping[Participant, Any] = {
    Participant.PRODUCT: product_store.GATES.prune_gates,
    Participant.COUPON: coupon_store.GATES.prune_gates,
    Participant.BALANCE: balance_store.GATES.prune_gates,
}


def is_past(world: World, order_id: UUID) -> bool:
    """Return whether an order is past the horizon of at least one participant."""
    return any(database.is_past(order_id) for database in world.participants.values())


async def prune_sometimes(world: World) -> None:
    """At random times, prune all orders up to a random one at a random participant. Never returns."""
    while True:
        await asyncio.sleep(0.2)
        orders = list(world.orders.orders.rows)
        if orders and world.happens("participant_prunes"):
            await prune(world, world.rng.choice(list(world.participants)), world.rng.choice(orders))


async def prune_all(world: World) -> None:
    """Prune every order at every participant. Call it without faults."""
    for place in world.participants:
        await prune(world, place, LAST_ORDER)


async def prune(world: World, place: str, up_to: UUID) -> None:
    database = world.participants[place]
    pool = LinkedPool(world, database)
    try:
        async with pool.transaction():
            database.raise_horizon_to(up_to)
        async with pool.transaction() as db:
            pruned = await PRUNE[participant_at(place)](db, UUID(int=0), 1000)
        world.note(f"{place} pruned {len(pruned)}")
    except Unavailable:
        world.note(f"{place} may have pruned nothing")
