"""The audit's queries: one function per query; each takes a connection."""

from decimal import Decimal
from uuid import UUID

from services.order.store import SQL
from shared.postgres import Connection, Row


async def list_orders_to_audit(db: Connection, after: UUID, limit: int) -> list[Row]:
    """Return up to `limit` orders after an id, in order of id, each with its events and whether its saga is live."""
    return await db.fetch(SQL["list_orders_to_audit"], after, limit)


async def get_order_to_audit(db: Connection, order_id: UUID) -> Row | None:
    """Return one order as `list_orders_to_audit` does, or None."""
    return await db.fetchrow(SQL["get_order_to_audit"], order_id)


async def read_value_at_risk(db: Connection) -> dict[str, float]:
    """Return the money, units and coupons of orders with live sagas, and the age of the oldest saga in seconds."""
    row = await db.fetchrow(SQL["read_value_at_risk"])
    assert row is not None
    return {name: int(value) if isinstance(value, Decimal) else value for name, value in row.items()}


async def oldest_unpublished_seconds(db: Connection) -> float:
    """Return the age of the oldest event that the relay has not published; 0 if there is none."""
    seconds: float = await db.fetchval(SQL["oldest_unpublished_seconds"])
    return seconds


async def hold_duty(db: Connection, duty: str, holder: UUID, seconds: float) -> bool:
    """Take or extend a duty's lease by `seconds`; return whether `holder` has it now."""
    return await db.fetchrow(SQL["hold_duty"], duty, holder, seconds) is not None
