"""One function per query of queries.sql; each takes a connection, so that its caller owns the transaction."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.coupon.domain import Coupon, CouponExists, CouponId, Decision, RedeemCoupon, ReserveCoupon, Status
from shared.participant.gates import Gates, gate_queries, sort_gates
from shared.participant.protocol import Outcome
from shared.participant.routes import book_check
from shared.postgres import Connection, Row, load_queries

SQL = {**gate_queries("coupons"), **load_queries(Path(__file__).parent / "queries.sql")}
GATES = Gates(SQL)


async def ready(db: Connection) -> None:
    """Raise unless the schema is there and can be read."""
    await db.fetch(SQL["ready"])


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


async def list_coupons(db: Connection, after: str, limit: int) -> list[Row]:
    """Return up to `limit` coupons with an id above `after`, by id."""
    return await db.fetch(SQL["list_coupons"], after, limit)


async def list_coupons_of_user(db: Connection, after: str, limit: int, user_id: str) -> list[Row]:
    """Return a user's coupons, likewise."""
    return await db.fetch(SQL["list_coupons_of_user"], after, limit, user_id)


async def list_coupons_by_status(db: Connection, after: str, limit: int, status: Status) -> list[Row]:
    """Return the coupons with a status, likewise."""
    return await db.fetch(SQL["list_coupons_by_status"], after, limit, status)


async def list_coupons_of_user_by_status(
    db: Connection, after: str, limit: int, user_id: str, status: Status
) -> list[Row]:
    """Return a user's coupons with a status, likewise."""
    return await db.fetch(SQL["list_coupons_of_user_by_status"], after, limit, user_id, status)


async def lock_gates(db: Connection, orders: Sequence[UUID]) -> tuple[set[UUID], set[UUID], datetime]:
    """Lock the gates in order of id; return those closed, those past, and the time. Raises Unavailable."""
    rows = await db.fetch(SQL["lock_gates"], orders)
    return *sort_gates(rows, orders), rows[0]["moment"]


async def lock_coupons(db: Connection, coupons: Sequence[CouponId], orders: Sequence[UUID]) -> dict[CouponId, Coupon]:
    """Lock in order of id, and return, the coupons that exist of those named and those that the orders have."""
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


async def use_at_once(db: Connection, uses: Sequence[ReserveCoupon | RedeemCoupon]) -> dict[UUID, Outcome]:
    """Reserve or redeem those of the coupons that may be used, each named once; return the outcomes of their orders."""
    rows = await db.fetch(
        SQL["use_at_once"],
        sorted(use.order_id for use in uses),
        [use.type for use in uses],
        [use.status for use in uses],
        [use.order_id for use in uses],
        [use.coupon_id for use in uses],
        [use.user_id for use in uses],
        [use.subtotal_amount for use in uses],
    )
    return {row["order_id"]: Outcome(True, {"discount_amount": row["discount_amount"]}) for row in rows}


async def list_holds(db: Connection, after: UUID, until: UUID, limit: int) -> list[Row]:
    """Return what is held now for up to `limit` orders after `after` and up to `until`, by order."""
    return await db.fetch(SQL["list_holds"], after, until, limit)


async def check_books(db: Connection) -> dict[str, Any]:
    """Return this service's own checks and totals, as shared/contracts/books.py describes them."""
    totals = await db.fetchrow(SQL["read_totals"])
    assert totals is not None
    return {
        "checks": [book_check("no coupon is held for an order that was undone", await db.fetch(SQL["check_coupons"]))],
        "totals": {name: int(value) for name, value in totals.items()},
    }


async def write_decision(db: Connection, decision: Decision) -> None:
    """Write a batch's decision: at most three statements, however large the batch."""
    await GATES.write_verdict(db, decision.verdict)
    if decision.coupons:
        await write_coupons(db, decision.coupons)
