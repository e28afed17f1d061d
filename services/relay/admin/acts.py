"""The operators' acts on parked events. Each is one call of the database, fenced against the relays' cycles, and
recorded with who and why in the same commit; the rules are beside its SQL in migrations/0002.parked.sql.

retry      give an order's parked events back, to be published in sequence
skip       give the first of them up, and the others back: consumers see a gap in the sequence
redact     leave an event's lines out, so that Kafka takes what is left; a retry brings it out
"""

from typing import Any, Literal
from uuid import UUID

import structlog

from services.relay import store
from services.relay.domain.refusals import EventNotParked
from shared.operators import Who
from shared.postgres import Pool

log = structlog.get_logger()

LIST_MAX = 1000
PAGE_ORDERS = 1000
NO_ID = UUID(int=0)

Name = Literal["retry", "skip", "redact"]


async def list_parked(pool: Pool) -> list[dict[str, Any]]:
    """Return parked events, order by order in sequence; `first` are those that the broker refused."""
    async with pool.connection() as db:
        return [dict(row) for row in await store.list_parked(db, LIST_MAX)]


async def act(pool: Pool, name: Name, id_: UUID, who: Who, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Act on a parked event, by its id or, for the first one of an order, the order's; return the events concerned.

    Raises EventNotParked, EventNotFirst (a skip) or NothingToRedact; a dry run raises what the act would.
    """
    async with pool.connection() as db:
        rows = await store.act_on_parked(db, name, id_, who, dry_run=dry_run)
    if not dry_run:
        log.info("operator.act_done", act=name, order_id=rows[0]["order_id"], actor=who.actor, reason=who.reason)
    return [dict(row) for row in rows]


async def retry_all(pool: Pool, who: Who, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Retry every order that has parked events, one after the other and each once: it may be parked again at once."""
    found: list[dict[str, Any]] = []
    for order_id in await _parked_orders(pool):
        try:
            found += await act(pool, "retry", order_id, who, dry_run=dry_run)
        except EventNotParked:  # somebody was faster
            continue
    return found


async def _parked_orders(pool: Pool) -> list[UUID]:
    """Return all orders that have parked events."""
    orders: list[UUID] = []
    async with pool.connection() as db:
        while page := await store.list_parked_orders(db, orders[-1] if orders else NO_ID, PAGE_ORDERS):
            orders += page
    return orders


async def list_acts(pool: Pool, limit: int) -> list[dict[str, Any]]:
    """Return the newest acts."""
    async with pool.connection() as db:
        return [dict(row) for row in await store.list_acts(db, limit)]
