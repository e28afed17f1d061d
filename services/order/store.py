"""One function per query of queries.sql; each takes a connection, so that its caller owns the transaction."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from services.order.domain import (
    Line,
    Live,
    Order,
    OrderId,
    OrderStatus,
    SagaId,
    with_products,
    without_products,
)
from services.order.saga import Kind, Saga, Status, Transition
from shared.fast_dataclass import fast_dataclass
from shared.ids import uuid7
from shared.postgres.connections import Connection, Row, load_queries

KeyPlace = tuple[str, str, str]  # identifies an idempotency key: user, operation, key


@fast_dataclass(frozen=True, slots=True)
class Answer:
    """A final HTTP answer: status, the body's bytes, and the order's path."""

    status: int
    body: bytes
    location: str | None = None


@fast_dataclass(frozen=True, slots=True)
class TransitionWrite:
    """All that a transition writes: the order after it, its JSON (`view`), the saga's log since the last commit, and
    the answer if the saga has ended."""

    saga_id: SagaId
    transition: Transition
    order: Order
    log: str
    view: bytes
    answer: Answer | None
    traceparent: str | None

    @property
    def stored_answer(self) -> Answer | None:
        """Return the answer that the saga's keys store; None for a refusal, which is read from the saga's row."""
        return None if self.transition.problem is not None else self.answer

    @property
    def priced_lines(self) -> str | None:
        """Return the lines if this transition is the first that knows their names and prices. Later ones don't write
        them again: a new version of a row would contain a copy."""
        first = self.transition.order_from is OrderStatus.PLACING and self.transition.saga_from is Status.RUNNING
        return stored_lines(self.order.lines) if first and self.order.subtotal_amount is not None else None


SQL = load_queries(Path(__file__).parent / "queries.sql")


def order_of(row: Row) -> Order:
    """Return the order that a row of orders.orders holds."""
    return Order(
        order_id=row["order_id"],
        user_id=row["user_id"],
        status=OrderStatus(row["status"]),
        lines=read_lines(row["lines"]),
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


def read_lines(stored: Sequence[Mapping[str, Any]]) -> tuple[Line, ...]:
    """Return the lines that orders.orders stores. Replicas of a later version may store more members."""
    return tuple(
        Line(line["product_id"], line["quantity"], line.get("name"), line.get("unit_price")) for line in stored
    )


def stored_lines(lines: Sequence[Line]) -> str:
    """Return lines as orders.orders stores them. They are text, because asyncpg reads a list as another dimension."""
    stored: list[dict[str, Any]] = [
        {
            "product_id": line.product_id,
            "quantity": line.quantity,
            **({"name": line.name, "unit_price": line.unit_price} if line.unit_price is not None else {}),
        }
        for line in lines
    ]
    return orjson.dumps(stored).decode()


async def get_order(db: Connection, order_id: UUID) -> Order | None:
    """Return an order or None."""
    row = await db.fetchrow(SQL["get_order"], order_id)
    return order_of(row) if row else None


async def list_orders(db: Connection, before: UUID, limit: int, user_id: str | None, status: str | None) -> list[Order]:
    """Return up to `limit` orders older than `before`, newest first."""
    # One query per combination of filters: a single query for all would not use the matching index.
    name = "list_orders" + ("_of_user" if user_id is not None else "") + ("_by_status" if status is not None else "")
    given = [value for value in (user_id, status) if value is not None]
    return [order_of(row) for row in await db.fetch(SQL[name], before, limit, *given)]


async def list_sagas_of_order(db: Connection, order_id: UUID) -> list[Row]:
    """Return the order's sagas with their logs, oldest first."""
    return await db.fetch(SQL["list_sagas_of_order"], order_id)


async def get_saga(db: Connection, saga_id: UUID) -> tuple[Saga, UUID] | None:
    """Return a saga with its order, and the process that owns it."""
    row = await db.fetchrow(SQL["get_saga"], saga_id)
    if row is None:
        return None
    order = order_of(row)
    saga = Saga(
        saga_id=row["saga_id"],
        kind=Kind(row["kind"]),
        version=row["version"],
        status=Status(row["saga_status"]),
        order=order,
        attempt=row["attempt"],
        target=OrderStatus(row["target"]) if row["target"] else None,
        problem=with_products(row["problem"], order.lines),
        traceparent=row["traceparent"],
    )
    return saga, row["owner"]


async def place_orders(
    db: Connection,
    placements: Sequence[tuple[SagaId, Kind, Order, str | None]],
    *,
    version: int,
    currency: str,
    payment_timeout_seconds: float,
    process_id: UUID,
) -> dict[UUID, tuple[datetime, datetime | None]]:
    """Insert new orders, each with its saga's id, kind and traceparent; return each one's creation and expiry time."""
    rows = await db.fetch(
        SQL["place_orders"],
        [saga_id for saga_id, _, _, _ in placements],
        [order.order_id for _, _, order, _ in placements],
        [order.user_id for _, _, order, _ in placements],
        [stored_lines(order.lines) for _, _, order, _ in placements],
        [order.coupon_id for _, _, order, _ in placements],
        [kind.value for _, kind, _, _ in placements],
        [order.payment_attempt for _, _, order, _ in placements],
        [traceparent for _, _, _, traceparent in placements],
        currency,
        payment_timeout_seconds,
        version,
        process_id,
    )
    return {row["order_id"]: (row["created_at"], row["expires_at"]) for row in rows}


async def insert_sagas(db: Connection, sagas: Sequence[Saga], version: int, process_id: UUID) -> None:
    """Insert sagas of existing orders, owned by this process."""
    await db.execute(
        SQL["insert_sagas"],
        [saga.saga_id for saga in sagas],
        [saga.order.order_id for saga in sagas],
        [saga.kind.value for saga in sagas],
        [saga.status.value for saga in sagas],
        [saga.target.value if saga.target else None for saga in sagas],
        [saga.attempt for saga in sagas],
        [saga.traceparent for saga in sagas],
        version,
        process_id,
    )


async def lock_orders(db: Connection, orders: Sequence[UUID]) -> dict[UUID, Order]:
    """Lock the orders in order of id; return the existing ones."""
    return {row["order_id"]: order_of(row) for row in await db.fetch(SQL["lock_orders"], orders)}


async def read_live_sagas(db: Connection, orders: Sequence[UUID]) -> dict[UUID, Live]:
    """Return the live saga of each order that has one."""
    rows = await db.fetch(SQL["read_live_sagas"], orders)
    return {row["order_id"]: Live(row["saga_id"], row["kind"]) for row in rows}


async def read_clock(db: Connection) -> datetime:
    """Return the database's time, which decides every race."""
    now: datetime = await db.fetchval(SQL["read_clock"])
    return now


async def begin_payments(db: Connection, orders: Sequence[UUID]) -> dict[UUID, Order]:
    """Move locked orders from PENDING_PAYMENT to PAYING, their next attempt."""
    return {row["order_id"]: order_of(row) for row in await db.fetch(SQL["begin_payments"], orders)}


async def begin_closings(db: Connection, targets: Mapping[OrderId, str]) -> dict[UUID, Order]:
    """Mark locked orders as closing."""
    rows = await db.fetch(SQL["begin_closings"], list(targets), list(targets.values()))
    return {row["order_id"]: order_of(row) for row in rows}


async def apply_transitions(
    db: Connection, writes: Sequence[TransitionWrite], process_id: UUID
) -> tuple[Collection[SagaId], datetime | None]:
    """Write the transitions whose guards match; return their sagas, and the database's time if there are any."""
    moves = [write.transition for write in writes]
    orders = [write.order for write in writes]
    answers = [write.stored_answer for write in writes]
    rows = await db.fetch(
        SQL["apply_transitions"],
        [write.saga_id for write in writes],
        [order.order_id for order in orders],
        [move.saga_from.value for move in moves],
        [move.saga_to.value for move in moves],
        [move.order_from.value for move in moves],
        [move.order_to.value for move in moves],
        [move.target.value if move.target else None for move in moves],
        [without_products(write.transition.problem, write.order.lines) for write in writes],
        [write.log for write in writes],
        [write.priced_lines for write in writes],
        [order.subtotal_amount for order in orders],
        [order.discount_amount for order in orders],
        [order.reason for order in orders],
        [order.paid_at for order in orders],
        [uuid7() if move.event else None for move in moves],
        [move.event for move in moves],
        [write.view for write in writes],
        [write.traceparent for write in writes],
        [answer.status if answer else None for answer in answers],
        [
            answer.body if answer and answer.body is not write.view else None
            for answer, write in zip(answers, writes, strict=True)
        ],
        [answer.location if answer else None for answer in answers],
        process_id,
    )
    return {row["saga_id"] for row in rows}, rows[0]["now"] if rows else None


async def mark_stuck(db: Connection, saga_id: SagaId, owner: UUID) -> None:
    """Set the stuck flag of a compensating saga."""
    await db.execute(SQL["mark_stuck"], saga_id, owner)


async def count_stuck(db: Connection) -> int:
    """Return how many live sagas are stuck."""
    count: int = await db.fetchval(SQL["count_stuck"])
    return count


async def renew_lease(db: Connection, process_id: UUID, seconds: float) -> datetime:
    """Extend this process' lease by the database's clock; return the database's time."""
    now: datetime = await db.fetchval(SQL["renew_lease"], process_id, seconds)
    return now


async def list_closed_slots(db: Connection) -> dict[int, UUID]:
    """Return the slots for whose users nothing new may begin here, with the least order id to which that applies."""
    return {row["slot"]: row["first_id"] for row in await db.fetch(SQL["list_closed_slots"])}


async def give_lease_up(db: Connection, process_id: UUID) -> None:
    """Delete this process' lease, so that other processes take over its sagas immediately."""
    await db.execute(SQL["give_lease_up"], process_id)


async def forget_dead_processes(db: Connection) -> None:
    """Delete leases that expired long ago."""
    await db.execute(SQL["forget_dead_processes"])


async def take_over(db: Connection, process_id: UUID, versions: Collection[int], limit: int) -> list[SagaId]:
    """Take up to `limit` live sagas whose owner has no valid lease."""
    return [row["saga_id"] for row in await db.fetch(SQL["take_over"], process_id, list(versions), limit)]


async def list_own(db: Connection, process_id: UUID, versions: Collection[int]) -> list[SagaId]:
    """Return the live sagas of this process."""
    return [row["saga_id"] for row in await db.fetch(SQL["list_own"], process_id, list(versions))]


async def count_unknown_versions(db: Connection, versions: Collection[int]) -> int:
    """Return how many live sagas have a version that this build does not know."""
    return int(await db.fetchval(SQL["count_unknown_versions"], list(versions)))


async def list_expired(db: Connection, limit: int, *, coupon: bool) -> list[OrderId]:
    """Return unpaid orders past `expires_at`, with or without a coupon, the longest past first."""
    return [row["order_id"] for row in await db.fetch(SQL["list_expired"], limit, coupon)]
