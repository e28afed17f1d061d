"""The operators' acts on parked events. Each is one call of the database, fenced against the relays' cycles. The same
commit records who acted and why; the rules are beside the SQL, in migrations/0002.parked.sql.

retry      make an order's parked events PENDING again, to be published in sequence
skip       never publish the first of them, and retry the others: consumers see a gap in the sequence
redact     remove an event's lines, so that Kafka accepts the rest; a retry publishes it
"""

from typing import Any, Literal
from uuid import UUID

import structlog

from services.relay import store
from services.relay.domain.refusals import EventNotParked
from shared.operators import Who
from shared.postgres.connections import Pool

log = structlog.get_logger()

LIST_MAX = 1000
PAGE_ORDERS = 1000
NO_ID = UUID(int=0)

Name = Literal["retry", "skip", "redact"]


async def list_parked(pool: Pool) -> list[dict[str, Any]]:
    """Return parked events by order, in sequence; the broker refused those marked `first`."""
    async with pool.connection() as db:
        return [dict(row) for row in await store.list_parked(db, LIST_MAX)]


async def act(pool: Pool, name: Name, id_: UUID, who: Who, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Act on a parked event, given its id, or its order's id for the first one; return the events concerned.

    Raises EventNotParked, EventNotFirst (skip only) or NothingToRedact. A dry run raises the same.
    """
    async with pool.connection() as db:
        rows = await store.act_on_parked(db, name, id_, who, dry_run=dry_run)
    if not dry_run:
        log.info("operator.act_done", act=name, order_id=rows[0]["order_id"], actor=who.actor, reason=who.reason)
    return [dict(row) for row in rows]


async def retry_all(pool: Pool, who: Who, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Retry every order that has parked events, one after the other, and each only once: it may be parked again."""
    found: list[dict[str, Any]] = []
    orders: list[UUID] = []
    async with pool.connection() as db:
        while page := await store.list_parked_orders(db, orders[-1] if orders else NO_ID, PAGE_ORDERS):
            orders += page
    for order_id in orders:
        try:
            found += await act(pool, "retry", order_id, who, dry_run=dry_run)
        except EventNotParked:  # another operator acted first
            continue
    return found


async def list_acts(pool: Pool, limit: int) -> list[dict[str, Any]]:
    """Return the newest acts."""
    async with pool.connection() as db:
        return [dict(row) for row in await store.list_acts(db, limit)]
