"""The audit's queries: one function per query; each takes a connection."""

from decimal import Decimal
from uuid import UUID

from services.order.store import SQL
from shared.postgres.connections import Connection, Row


async def list_orders_to_audit(db: Connection, after: UUID, limit: int) -> list[Row]:
    """Return up to `limit` orders after an id, in order of id, each with its events and whether its saga is live."""
    return await db.fetch(SQL["list_orders_to_audit"], after, limit)


async def read_value_at_risk(db: Connection) -> dict[str, float]:
    """Return the money, units and coupons of orders with live sagas, and the age of the oldest saga in seconds."""
    row = await db.fetchrow(SQL["read_value_at_risk"])
    assert row is not None
    return {name: int(value) if isinstance(value, Decimal) else value for name, value in row.items()}


async def hold_leadership(db: Connection, seconds: float, *, leadership: str, holder: UUID) -> bool:
    """Take the leadership of that name or extend its lease by `seconds`; return whether `holder` has it now."""
    return await db.fetchrow(SQL["hold_leadership"], leadership, holder, seconds) is not None
