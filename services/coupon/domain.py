"""The rules of coupons: pure functions of the loaded rows, and the refusals they raise."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar, Literal, NewType
from uuid import UUID

from shared.contracts.refusals import InvalidCoupon, NotReserved, OrderHasCoupon
from shared.participant.protocol import Do, Undo
from shared.refusals import Refusal

CouponId = NewType("CouponId", str)
UserId = NewType("UserId", str)
OrderId = NewType("OrderId", UUID)

Kind = Literal["fixed", "percent"]
Status = Literal["AVAILABLE", "RESERVED", "REDEEMED"]
Reason = Literal["not-found", "not-owner", "expired", "already-used", "reserved", "below-minimum"]

_DETAILS: Mapping[Reason, str] = {
    "not-found": "There is no such coupon.",
    "not-owner": "The coupon belongs to somebody else.",
    "expired": "The coupon has expired.",
    "already-used": "The coupon was used already.",
    "reserved": "The coupon is set aside for another order.",
    "below-minimum": "The order is below the coupon's minimum.",
}


class CouponNotFound(Refusal):
    """There is no such coupon."""

    slug = "coupon-not-found"
    status = 404


class CouponExists(Refusal):
    """There is a coupon with this id already."""

    slug = "coupon-exists"
    status = 409


@dataclass(frozen=True, slots=True)
class Coupon:
    """A coupon; amounts in minor units. `order_id` and `discount_amount` are set unless it is AVAILABLE."""

    coupon_id: CouponId
    user_id: UserId
    kind: Kind
    value: int
    max_discount: int | None
    min_subtotal: int
    expires_at: datetime | None
    status: Status = "AVAILABLE"
    order_id: OrderId | None = None
    discount_amount: int | None = None

    def discount(self, subtotal_amount: int) -> int:
        """Return the discount on a subtotal: a percentage is floored, and nothing exceeds the subtotal."""
        discount = self.value if self.kind == "fixed" else subtotal_amount * self.value // 100
        if self.max_discount is not None:
            discount = min(discount, self.max_discount)
        return min(discount, subtotal_amount)


@dataclass(frozen=True, slots=True)
class _Use(Do):
    """The fields that reserving and redeeming share."""

    coupon_id: CouponId
    user_id: UserId
    subtotal_amount: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class ReserveCoupon(_Use):
    """Reserve a coupon for an order that is paid later."""

    type: ClassVar[str] = "reserve_coupon"
    status: ClassVar[Status] = "RESERVED"


@dataclass(frozen=True, slots=True)
class RedeemCoupon(_Use):
    """Redeem a coupon; `reserved` states that the order reserved it before."""

    type: ClassVar[str] = "redeem_coupon"
    status: ClassVar[Status] = "REDEEMED"
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseCoupon(Undo):
    """Make the order's coupon AVAILABLE again."""

    type: ClassVar[str] = "release_coupon"


# A gate is an order's id.
Command = ReserveCoupon | RedeemCoupon | ReleaseCoupon


class Batch:
    """The working copy of one batch.

    `coupons`: every coupon that the batch names or that its orders reserved or redeemed. `now`: the database's time, at
    which coupons must be valid.
    """

    def __init__(self, coupons: Mapping[CouponId, Coupon], now: datetime) -> None:
        self._now = now
        self._before = coupons
        self._coupons = dict(coupons)
        self._of_order = {coupon.order_id: coupon.coupon_id for coupon in coupons.values() if coupon.order_id}

    @property
    def changed(self) -> list[Coupon]:
        """Return the changed coupons in their new state."""
        return [coupon for coupon in self._coupons.values() if coupon != self._before[coupon.coupon_id]]

    def do(self, command: Command) -> Mapping[str, Any]:
        """Reserve or redeem a coupon. Raises InvalidCoupon, NotReserved or OrderHasCoupon."""
        assert not isinstance(command, ReleaseCoupon)
        coupon = self._coupons.get(command.coupon_id)
        if coupon is None:
            raise _invalid("not-found")
        if isinstance(command, RedeemCoupon) and command.reserved:
            # It was valid when it was reserved. If it has expired since, the customer still gets the promised price.
            if coupon.status != "RESERVED" or coupon.order_id != command.gate:
                raise NotReserved
            self._coupons[coupon.coupon_id] = replace(coupon, status=command.status)
            return {"discount_amount": coupon.discount_amount}
        self._check(coupon, command)
        discount = coupon.discount(command.subtotal_amount)
        self._of_order[OrderId(command.gate)] = coupon.coupon_id
        self._coupons[coupon.coupon_id] = replace(
            coupon,
            status=command.status,
            order_id=OrderId(command.gate),
            discount_amount=discount,
        )
        return {"discount_amount": discount}

    def _check(self, coupon: Coupon, command: ReserveCoupon | RedeemCoupon) -> None:
        if coupon.user_id != command.user_id:
            raise _invalid("not-owner")
        if coupon.expires_at is not None and coupon.expires_at <= self._now:
            raise _invalid("expired")
        if coupon.status == "REDEEMED":
            raise _invalid("already-used")
        if coupon.status == "RESERVED":
            raise _invalid("reserved")
        if command.subtotal_amount < coupon.min_subtotal:
            raise _invalid("below-minimum", min_subtotal=coupon.min_subtotal)
        if command.gate in self._of_order:
            raise OrderHasCoupon

    def undo(self, command: Command) -> Mapping[str, Any]:
        """Make the order's coupon AVAILABLE again."""
        coupon_id = self._of_order.pop(OrderId(command.gate), None)
        if coupon_id is not None:
            self._coupons[coupon_id] = replace(
                self._coupons[coupon_id], status="AVAILABLE", order_id=None, discount_amount=None
            )
        return {}


def _invalid(reason: Reason, **members: Any) -> InvalidCoupon:
    return InvalidCoupon(_DETAILS[reason], reason=reason, **members)
