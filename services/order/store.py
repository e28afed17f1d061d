"""One function per query of queries.sql; each takes a connection, so that its caller owns the transaction."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from services.order.domain import Line, Live, Order, OrderId, OrderStatus, SagaId
from services.order.saga import Kind, Saga, Status
from shared.postgres import Connection, Row, load_queries

SQL = load_queries(Path(__file__).parent / "queries.sql")


def order_of(row: Row) -> Order:
    """Return the order that a row of orders.orders holds."""
    return Order(
        order_id=row["order_id"],
        user_id=row["user_id"],
        status=OrderStatus(row["status"]),
        lines=tuple(Line(**line) for line in row["lines"]),
        currency=row["currency"],
        created_at=row["created_at"],
        coupon_id=row["coupon_id"],
        subtotal_amount=row["subtotal_amount"],
        discount_amount=row["discount_amount"],
        total_amount=row["total_amount"],
        closing=OrderStatus(row["closing"]) if row["closing"] else None,
        reason=row["reason"],
        payment_attempt=row["payment_attempt"],
        event_sequence=row["event_sequence"],
        expires_at=row["expires_at"],
        paid_at=row["paid_at"],
    )


def stored_lines(lines: Sequence[Line]) -> str:
    """Return lines as orders.orders keeps them; as text, since asyncpg takes a list for a further dimension."""
    stored: list[dict[str, Any]] = [
        {
            "product_id": line.product_id,
            "quantity": line.quantity,
            **({"name": line.name, "unit_price": line.unit_price} if line.unit_price is not None else {}),
        }
        for line in lines
    ]
    return orjson.dumps(stored).decode()


async def ready(db: Connection) -> None:
    """Raise unless the schema is there and can be read."""
    await db.fetch(SQL["ready"])


async def get_order(db: Connection, order_id: UUID) -> Order | None:
    """Return an order or None."""
    row = await db.fetchrow(SQL["get_order"], order_id)
    return order_of(row) if row else None


async def list_orders(db: Connection, before: UUID, limit: int, user_id: str | None, status: str | None) -> list[Order]:
    """Return up to `limit` orders older than `before`, newest first."""
    given = [value for value in (user_id, status) if value is not None]
    name = {
        (False, False): "list_orders",
        (True, False): "list_orders_of_user",
        (False, True): "list_orders_by_status",
        (True, True): "list_orders_of_user_by_status",
    }[user_id is not None, status is not None]
    return [order_of(row) for row in await db.fetch(SQL[name], before, limit, *given)]


async def list_sagas_of_order(db: Connection, order_id: UUID) -> list[Row]:
    """Return the order's sagas with their logs, oldest first."""
    return await db.fetch(SQL["list_sagas_of_order"], order_id)


async def get_saga(db: Connection, saga_id: UUID) -> tuple[Saga, UUID] | None:
    """Return a saga with its order, and the process that owns it."""
    row = await db.fetchrow(SQL["get_saga"], saga_id)
    if row is None:
        return None
    saga = Saga(
        saga_id=row["saga_id"],
        kind=Kind(row["kind"]),
        version=row["version"],
        status=Status(row["saga_status"]),
        order=order_of(row),
        attempt=row["attempt"],
        target=OrderStatus(row["target"]) if row["target"] else None,
        problem=row["problem"],
        traceparent=row["traceparent"],
    )
    return saga, row["owner"]


async def lock_orders(db: Connection, orders: Sequence[UUID]) -> dict[UUID, Order]:
    """Lock the orders in order of id and return those that exist."""
    return {row["order_id"]: order_of(row) for row in await db.fetch(SQL["lock_orders"], orders)}


async def read_live_sagas(db: Connection, orders: Sequence[UUID]) -> dict[UUID, Live]:
    """Return the live saga of each order that has one."""
    rows = await db.fetch(SQL["read_live_sagas"], orders)
    return {row["order_id"]: Live(row["saga_id"], row["kind"]) for row in rows}


async def read_clock(db: Connection) -> datetime:
    """Return the database's clock, which decides every race."""
    now: datetime = await db.fetchval(SQL["read_clock"])
    return now


async def begin_payments(db: Connection, orders: Sequence[UUID]) -> dict[UUID, Order]:
    """Move locked orders from PENDING_PAYMENT to PAYING, their next attempt."""
    return {row["order_id"]: order_of(row) for row in await db.fetch(SQL["begin_payments"], orders)}


async def begin_closings(db: Connection, targets: Mapping[OrderId, str]) -> dict[UUID, Order]:
    """Mark locked orders as closing."""
    rows = await db.fetch(SQL["begin_closings"], list(targets), list(targets.values()))
    return {row["order_id"]: order_of(row) for row in rows}


async def mark_stuck(db: Connection, saga_id: SagaId, owner: UUID) -> None:
    """Flag a compensating saga that does not get on."""
    await db.execute(SQL["mark_stuck"], saga_id, owner)


async def count_stuck(db: Connection) -> int:
    """Return how many live sagas are stuck."""
    count: int = await db.fetchval(SQL["count_stuck"])
    return count


async def renew_lease(db: Connection, process_id: UUID, seconds: float) -> None:
    """Extend this process' lease by the database's clock."""
    await db.execute(SQL["renew_lease"], process_id, seconds)


async def give_lease_up(db: Connection, process_id: UUID) -> None:
    """End this process' lease, so that others take its sagas over at once."""
    await db.execute(SQL["give_lease_up"], process_id)


async def forget_dead_processes(db: Connection) -> None:
    """Remove leases that ran out long ago."""
    await db.execute(SQL["forget_dead_processes"])


async def take_over(db: Connection, process_id: UUID, versions: Collection[int], limit: int) -> list[SagaId]:
    """Take up to `limit` live sagas whose owner has no valid lease."""
    return [row["saga_id"] for row in await db.fetch(SQL["take_over"], process_id, list(versions), limit)]


async def list_own(db: Connection, process_id: UUID, versions: Collection[int]) -> list[SagaId]:
    """Return the live sagas of this process."""
    return [row["saga_id"] for row in await db.fetch(SQL["list_own"], process_id, list(versions))]


async def count_unknown_versions(db: Connection, versions: Collection[int]) -> int:
    """Return how many live sagas this build leaves alone."""
    count: int = await db.fetchval(SQL["count_unknown_versions"], list(versions))
    return count


async def list_expired(db: Connection, limit: int) -> list[OrderId]:
    """Return orders that are unpaid and past `expires_at`, longest first."""
    return [row["order_id"] for row in await db.fetch(SQL["list_expired"], limit)]


async def prune_keys(db: Connection, after: datetime, limit: int, *, hours: int) -> list[datetime]:
    """Delete up to `limit` answered keys older than `hours`, from `after` on; return their times, ascending."""
    return sorted(row["created_at"] for row in await db.fetch(SQL["prune_keys"], after, limit, hours))


async def prune_sagas(db: Connection, after: UUID, limit: int, *, days: int) -> list[SagaId]:
    """Delete up to `limit` sagas that ended more than `days` ago, after an id; return theirs, ascending."""
    return sorted(row["saga_id"] for row in await db.fetch(SQL["prune_sagas"], after, limit, days))
