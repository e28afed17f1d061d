"""Raises participants' horizons much sooner than in production, and prunes the orders that are past them.

An order that is pruned in the middle of its saga is refused. It must have no other effect.
"""

import asyncio
from uuid import UUID

from services.balance import store as balance_store
from services.coupon import store as coupon_store
from services.order.saga import Participant
from services.product import store as product_store
from shared.refusals import Unavailable
from tests.simulation.links import LinkedPool
from tests.simulation.memory.participants import ParticipantDatabase
from tests.simulation.world import World

LAST_ORDER = UUID(int=2**128 - 1)
PRUNE = {
    Participant.PRODUCT: product_store.GATES.prune_gates,
    Participant.COUPON: coupon_store.GATES.prune_gates,
    Participant.BALANCE: balance_store.GATES.prune_gates,
}


def _databases(world: World) -> dict[Participant, ParticipantDatabase]:
    return {
        Participant.PRODUCT: world.products,
        Participant.COUPON: world.coupons,
        Participant.BALANCE: world.balances,
    }


def is_past(world: World, order_id: UUID) -> bool:
    """Return whether an order is past the horizon of at least one participant."""
    return any(database.is_past(order_id) for database in _databases(world).values())


async def prune_sometimes(world: World) -> None:
    """At random times, prune all orders up to a random one at a random participant. Never returns."""
    while True:
        await asyncio.sleep(0.2)
        orders = list(world.orders.orders.rows)
        if orders and world.happens("participant_prunes"):
            await _prune(world, world.rng.choice(list(Participant)), world.rng.choice(orders))


async def prune_all(world: World) -> None:
    """Prune every order at every participant. Call it without faults."""
    for place in Participant:
        await _prune(world, place, LAST_ORDER)


async def _prune(world: World, place: Participant, up_to: UUID) -> None:
    database = _databases(world)[place]
    pool = LinkedPool(world, database)
    try:
        async with pool.transaction():
            database.raise_horizon_to(up_to)
        async with pool.transaction() as db:
            pruned = await PRUNE[place](db, UUID(int=0), 1000)
        world.note(f"{place} pruned {len(pruned)}")
    except Unavailable:
        world.note(f"{place} may have pruned nothing")
