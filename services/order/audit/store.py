"""The audit's queries: one function per query; each takes a connection."""

from decimal import Decimal
from uuid import UUID

from services.order.store import SQL
from shared.postgres.connections import Connection, Row


async def list_orders_to_audit(db: Connection, after: UUID, limit: int) -> list[Row]:
    """Return up to `limit` orders after an id, in order of id, each with its events and whether its saga is live."""
    return await db.fetch(SQL["list_orders_to_audit"], after, limit)


async def get_order_to_audit(db: Connection, order_id: UUID) -> Row | None:
    """Return one order in the same form, None if there is none of this id."""
    # No order has the id 0: a pass begins after it.
    page = await list_orders_to_audit(db, UUID(int=order_id.int - 1), 1)
    return page[0] if page and page[0]["order_id"] == order_id else None


async def list_slots_elsewhere(db: Connection) -> dict[int, UUID]:
    """Return the slots that another cell has, although this one has or had their rows, with the least id of each."""
    return {row["slot"]: row["first_id"] for row in await db.fetch(SQL["list_slots_elsewhere"])}


async def read_value_at_risk(db: Connection) -> dict[str, float]:
    """Return the money, units and coupons of orders with live sagas, and the age of the oldest saga in seconds."""
    row = await db.fetchrow(SQL["read_value_at_risk"])
    assert row is not None
    return {name: int(value) if isinstance(value, Decimal) else value for name, value in row.items()}


async def hold_leadership(db: Connection, seconds: float, *, leadership: str, holder: UUID) -> bool:
    """Take the leadership of that name or extend its lease by `seconds`; return whether `holder` has it now."""
    return await db.fetchrow(SQL["hold_leadership"], leadership, holder, seconds) is not None
