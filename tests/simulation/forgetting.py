"""Participants that forget: their horizon rises, much sooner than it ever would, and what is past it is pruned.

Orders are cut off in the middle of their sagas by it. That costs them their success and must cost nobody anything else.
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

LAST = UUID(int=2**128 - 1)
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
    """Say whether some participant refuses to take anything for an order any more."""
    return any(database.is_past(order_id) for database in _databases(world).values())


async def forget_now_and_then(world: World) -> None:
    """Have a participant forget all orders up to one of them."""
    while True:
        await asyncio.sleep(0.2)
        orders = list(world.orders.orders.rows)
        if orders and world.happens("participant_forgets"):
            await _forget(world, world.dice.choice(list(Participant)), world.dice.choice(orders))


async def forget_all(world: World) -> None:
    """Have every participant forget every order; nothing fails meanwhile."""
    for place in Participant:
        await _forget(world, place, LAST)


async def _forget(world: World, place: Participant, up_to: UUID) -> None:
    database = _databases(world)[place]
    pool = LinkedPool(world, database)
    try:
        async with pool.transaction():
            database.raise_horizon_to(up_to)
        async with pool.transaction() as db:
            pruned = await PRUNE[place](db, UUID(int=0), 1000)
        world.note(f"{place} forgot {len(pruned)}")
    except Unavailable:
        world.note(f"{place} did not forget, or perhaps it did")
