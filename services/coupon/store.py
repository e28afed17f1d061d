"""One function per query of queries.sql; each takes a connection, so that its caller owns the transaction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.coupon.domain import Batch, Coupon, CouponExists, CouponId, RedeemCoupon, ReserveCoupon, Status
from shared.participant.gates import Gates, gate_queries
from shared.participant.protocol import Outcome
from shared.participant.routes import book_check
from shared.postgres.connections import Connection, Row, load_queries

SQL = {**gate_queries("coupons", "order_id"), **load_queries(Path(__file__).parent / "queries.sql")}
GATES = Gates(SQL)


async def create_coupon(db: Connection, coupon: Coupon) -> Row:
    """Insert an AVAILABLE coupon. Raises CouponExists."""
    try:
        row = await db.fetchrow(
            SQL["create_coupon"],
            coupon.coupon_id,
            coupon.user_id,
            coupon.kind,
            coupon.value,
            coupon.max_discount,
            coupon.min_subtotal,
            coupon.expires_at,
        )
    except asyncpg.UniqueViolationError:
        raise CouponExists(f"There is a coupon {coupon.coupon_id} already.") from None
    assert row is not None
    return row


async def get_coupon(db: Connection, coupon_id: str) -> Row | None:
    """Return a coupon or None."""
    return await db.fetchrow(SQL["get_coupon"], coupon_id)


async def list_coupons(db: Connection, after: str, limit: int, user_id: str | None, status: Status | None) -> list[Row]:
    """Return up to `limit` coupons with an id above `after`, by id: of one user, with one status, both or all."""
    # One query per combination of filters: a single query for all would not use the matching index.
    name = "list_coupons" + ("_of_user" if user_id is not None else "") + ("_by_status" if status is not None else "")
    given = [value for value in (user_id, status) if value is not None]
    return await db.fetch(SQL[name], after, limit, *given)


async def lock_coupons(db: Connection, coupons: Sequence[CouponId], orders: Sequence[UUID]) -> dict[CouponId, Coupon]:
    """Lock, in order of id, the existing coupons among the named ones and the orders' own; return them."""
    rows = await db.fetch(SQL["lock_coupons"], coupons, orders)
    return {row["coupon_id"]: Coupon(*row.values()) for row in rows}


async def write_coupons(db: Connection, coupons: Sequence[Coupon]) -> None:
    """Set the status, order and discount of locked coupons."""
    await db.execute(
        SQL["write_coupons"],
        [coupon.coupon_id for coupon in coupons],
        [coupon.status for coupon in coupons],
        [coupon.order_id for coupon in coupons],
        [coupon.discount_amount for coupon in coupons],
    )


async def use_in_one_statement(db: Connection, uses: Sequence[ReserveCoupon | RedeemCoupon]) -> dict[UUID, Outcome]:
    """Reserve or redeem the coupons that may be used, each named once; return their orders' outcomes."""
    rows = await db.fetch(
        SQL["use_in_one_statement"],
        sorted(use.gate for use in uses),
        [use.type for use in uses],
        [use.status for use in uses],
        [use.gate for use in uses],
        [use.coupon_id for use in uses],
        [use.user_id for use in uses],
        [use.subtotal_amount for use in uses],
    )
    return {row["order_id"]: Outcome(True, {"discount_amount": row["discount_amount"]}) for row in rows}


async def list_holds(db: Connection, after: UUID, until: UUID, limit: int) -> list[Row]:
    """Return the current holds of up to `limit` orders after `after` and up to `until`, by order."""
    return await db.fetch(SQL["list_holds"], after, until, limit)


async def check_books(db: Connection) -> dict[str, Any]:
    """Return this service's own checks and totals, as shared/contracts/books.py describes them."""
    totals = await db.fetchrow(SQL["read_totals"])
    assert totals is not None
    return {
        "checks": [book_check("no coupon is held for an order that was undone", await db.fetch(SQL["check_coupons"]))],
        "totals": {name: int(value) for name, value in totals.items()},
    }


async def write_batch(db: Connection, batch: Batch) -> None:
    """Write what a batch changes: at most one statement, however large the batch."""
    if changed := batch.changed:
        await write_coupons(db, changed)
