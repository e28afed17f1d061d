"""Fills gaps: asks the relay for sequences that later events of their order wait for."""

from collections.abc import Sequence

import structlog

from deploy.consumer import intake, store
from deploy.consumer.events import Event, Undecodable
from deploy.consumer.relay import Relay, Told
from deploy.consumer.store import Gap
from shared.postgres import Pool

log = structlog.get_logger()

ORDERS_MAX = 100
AGAIN_SECONDS = 5.0
# Far more events than an order has. A sequence further off is a mistake, and counting up to it could take for ever.
GAP_MAX = 10_000
# In a gap before an event that was published these never come: the one was given up, of the others nothing is left.
GIVEN_UP = "SKIPPED"


async def fill(pool: Pool, relay: Relay) -> None:
    """Ask for what is missing now. Raises Unavailable."""
    async with pool.connection() as db:
        gaps = await store.orders_to_ask_for(db, AGAIN_SECONDS, ORDERS_MAX)
    for gap in gaps:
        if gap.last is not None:
            await _fill(pool, gap, gap.last, await relay.events_of_order(gap.order_id, gap.first, gap.last))


async def _fill(pool: Pool, gap: Gap, last: int, told: Sequence[Told]) -> None:
    if last - gap.first >= GAP_MAX:
        log.error("gap too long", order_id=str(gap.order_id), first=gap.first, last=last)
        return
    events, unreadable = read(told)
    there = {one.sequence for one in told if one.status != GIVEN_UP}
    given_up = [sequence for sequence in range(gap.first, last + 1) if sequence not in there]
    async with intake.transaction(pool) as db:
        taken = await intake.take(db, events, "relay", {gap.order_id: given_up})
    log.warning(
        "gap",
        order_id=str(gap.order_id),
        first=gap.first,
        last=last,
        fetched=taken.new,
        given_up=given_up,
        unreadable=unreadable,
    )


def read(told: Sequence[Told]) -> tuple[list[Event], list[int]]:
    """Return the events that were published, and the sequences of those that nobody here can read."""
    events, unreadable = [], []
    for one in told:
        if one.sha256 is not None:
            try:
                events.append(one.event())
            except Undecodable:
                unreadable.append(one.sequence)
    return events, unreadable
