"""The operators' queries: one function per query; each takes a connection, so that its caller owns the transaction."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from services.order.store import SQL
from shared.postgres.connections import Connection, Row


async def list_live_sagas(db: Connection, older_than_seconds: float, limit: int) -> list[Row]:
    """Return up to `limit` live sagas that started at least `older_than_seconds` ago, oldest first."""
    return await db.fetch(SQL["list_live_sagas"], older_than_seconds, limit)


async def list_leases(db: Connection, limit: int) -> list[Row]:
    """Return up to `limit` processes with a lease, and owners of live sagas without one, with the number of sagas."""
    return await db.fetch(SQL["list_leases"], limit)


async def find_sagas(db: Connection, id_: UUID) -> list[UUID]:
    """Return the sagas for a saga's or an order's id, oldest first."""
    return [row["saga_id"] for row in await db.fetch(SQL["find_sagas"], id_)]


async def release_sagas(db: Connection, sagas: Sequence[UUID]) -> list[Row]:
    """Release the live ones among these sagas from their owners; return the saga and order id of each."""
    return await db.fetch(SQL["release_sagas"], list(sagas))


async def force_compensation(db: Connection, saga_id: UUID, problem: dict[str, Any]) -> Row | None:
    """Move a RUNNING saga to COMPENSATING; return its saga and order id, or None if it was not RUNNING."""
    return await db.fetchrow(SQL["force_compensation"], saga_id, problem)


async def take_for_resolution(db: Connection, saga_id: UUID, owner: UUID) -> Row | None:
    """Give a COMPENSATING saga to `owner`; return its saga and order id, or None if it was not COMPENSATING."""
    return await db.fetchrow(SQL["take_for_resolution"], saga_id, owner)


async def record_act(
    db: Connection, actor: str, act: str, order_id: UUID, saga_id: UUID | None, reason: str, detail: dict[str, Any]
) -> None:
    """Record an operator's act and its reason."""
    await db.execute(SQL["record_act"], actor, act, order_id, saga_id, reason, detail)


async def list_acts(db: Connection, limit: int) -> list[Row]:
    """Return up to `limit` acts, newest first."""
    return await db.fetch(SQL["list_acts"], limit)


async def count_live_by_version(db: Connection) -> list[Row]:
    """Return, per version of the saga definition, the number of live sagas and the start of the oldest."""
    return await db.fetch(SQL["count_live_by_version"])
