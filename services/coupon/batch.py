"""One batch of commands as one transaction: the order of locks and reads that the protocol's safety rests on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from services.coupon import store
from services.coupon.domain import (
    Command,
    CouponId,
    OrderId,
    RedeemCoupon,
    ReleaseCoupon,
    ReserveCoupon,
    UserId,
    decide,
)
from shared.contracts import commands as wire
from shared.participant.protocol import Outcome
from shared.postgres import Connection


def to_command(command: Any) -> Command:
    """Return the domain's command for a wire command."""
    order_id = OrderId(command.order_id)
    if isinstance(command, wire.ReleaseCoupon):
        return ReleaseCoupon(order_id)
    use = (order_id, CouponId(command.coupon_id), UserId(command.user_id), command.subtotal_amount, command.attempt)
    return RedeemCoupon(*use, command.reserved) if isinstance(command, wire.RedeemCoupon) else ReserveCoupon(*use)


async def execute(db: Connection, commands: Sequence[Command]) -> Sequence[Outcome]:
    """Decide and write a batch inside the caller's transaction; return an outcome a command.

    Gates are locked in a statement of their own after they were inserted, and everything is read after that:
    whoever waited for a lock sees what its holder wrote. A coupon's order changes only under that order's gate,
    so the coupons that the batch's orders have are found and locked together with those it names.
    """
    orders = sorted({command.order_id for command in commands})
    await store.GATES.open_gates(db, orders)
    closed, past, moment = await store.lock_gates(db, orders)
    named = {command.coupon_id for command in commands if not isinstance(command, ReleaseCoupon)}
    coupons = await store.lock_coupons(db, sorted(named), orders)
    stored = await store.GATES.read_outcomes(db, orders)
    decision = decide(commands, closed, stored, coupons, moment, past)
    await store.write_decision(db, decision)
    return decision.verdict.outcomes


async def fast_path(db: Connection, commands: Sequence[Command]) -> Mapping[UUID, Outcome]:
    """Apply in one statement the uses that can be applied whatever becomes of the others; return their outcomes.

    What was reserved is redeemed the general way: its order has a gate already.
    """
    uses = [use for use in commands if not isinstance(use, ReleaseCoupon) and not use.attempt and not _reserved(use)]
    count = Counter(use.coupon_id for use in uses)
    uses = [use for use in uses if count[use.coupon_id] == 1]
    return await store.use_at_once(db, uses) if uses else {}


def _reserved(use: ReserveCoupon | RedeemCoupon) -> bool:
    return isinstance(use, RedeemCoupon) and use.reserved
