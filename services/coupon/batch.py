"""What a batch of commands locks, and which of them one statement applies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from services.coupon import store
from services.coupon.domain import (
    Batch,
    Command,
    CouponId,
    OrderId,
    RedeemCoupon,
    ReleaseCoupon,
    ReserveCoupon,
    UserId,
)
from shared.contracts import commands as wire
from shared.participant import executor
from shared.participant.protocol import Outcome
from shared.postgres.connections import Connection


def to_command(command: Any) -> Command:
    """Return the domain's command for a wire command."""
    order_id = OrderId(command.order_id)
    if isinstance(command, wire.ReleaseCoupon):
        return ReleaseCoupon(order_id)
    use = (order_id, CouponId(command.coupon_id), UserId(command.user_id), command.subtotal_amount, command.attempt)
    return RedeemCoupon(*use, command.reserved) if isinstance(command, wire.RedeemCoupon) else ReserveCoupon(*use)


async def lock(db: Connection, commands: Sequence[Command], _undone: Sequence[UUID], now: datetime) -> Batch:
    """Lock the coupons that the commands name and those of their orders.

    A coupon's order changes only under that order's gate. So one statement can find and lock both.
    """
    orders = sorted({command.gate for command in commands})
    named = {command.coupon_id for command in commands if not isinstance(command, ReleaseCoupon)}
    return Batch(await store.lock_coupons(db, sorted(named), orders), now)


execute = partial(executor.execute, gates=store.GATES, lock=lock, write=store.write_batch)


async def fast_path(db: Connection, commands: Sequence[Command]) -> Mapping[UUID, Outcome]:
    """Apply, in one statement, the uses that succeed independently of all others; return their outcomes.

    A reserved coupon is redeemed by `execute`: its order already has a gate.
    """
    uses = [use for use in commands if not isinstance(use, ReleaseCoupon)]
    uses = [use for use in uses if not (isinstance(use, RedeemCoupon) and use.reserved)]
    count = Counter(use.coupon_id for use in uses)
    uses = [use for use in uses if count[use.coupon_id] == 1]
    return await store.use_in_one_statement(db, uses) if uses else {}
