"""The rules of coupons: pure functions of what was loaded, and the refusals they give."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar, Literal, NewType
from uuid import UUID

from shared.contracts.refusals import InvalidCoupon
from shared.participant import protocol
from shared.participant.protocol import Outcome, OutcomeKey, Verdict
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


class NotReserved(Refusal):
    """The order has not reserved this coupon."""

    slug = "coupon-not-reserved"
    status = 409


class OrderHasCoupon(Refusal):
    """The order has a coupon already."""

    slug = "order-has-coupon"
    status = 409


@dataclass(frozen=True, slots=True)
class Coupon:
    """A coupon as it is; amounts in minor units. `order_id` and `discount_amount` are set unless AVAILABLE."""

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
class _Use:
    """What reserving and redeeming have in common."""

    undo: ClassVar[bool] = False
    order_id: OrderId
    coupon_id: CouponId
    user_id: UserId
    subtotal_amount: int
    attempt: int = 0

    @property
    def gate(self) -> UUID:
        """Return the order, whose gate this passes."""
        return self.order_id


@dataclass(frozen=True, slots=True)
class ReserveCoupon(_Use):
    """Set a coupon aside for an order that is paid later."""

    type: ClassVar[str] = "reserve_coupon"
    status: ClassVar[Status] = "RESERVED"


@dataclass(frozen=True, slots=True)
class RedeemCoupon(_Use):
    """Use a coupon up; `reserved` says that the order reserved it before."""

    type: ClassVar[str] = "redeem_coupon"
    status: ClassVar[Status] = "REDEEMED"
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseCoupon:
    """Make the order's coupon AVAILABLE again."""

    type: ClassVar[str] = "release_coupon"
    undo: ClassVar[bool] = True
    order_id: OrderId
    attempt: int = 0

    @property
    def gate(self) -> UUID:
        """Return the order, whose gate this closes."""
        return self.order_id


Command = ReserveCoupon | RedeemCoupon | ReleaseCoupon


@dataclass(slots=True)
class Decision:
    """What a batch comes to: the protocol's verdict and the coupons that changed, as they are now."""

    verdict: Verdict
    coupons: list[Coupon] = field(default_factory=list)


def decide(
    commands: Sequence[Command],
    closed: Collection[UUID],
    stored: Mapping[OutcomeKey, Outcome],
    coupons: Mapping[CouponId, Coupon],
    moment: datetime,
    past: Collection[UUID] = (),
) -> Decision:
    """Decide a batch in arrival order.

    `closed`, `stored`, `past`: the protocol's, of the batch's orders. `coupons`: every coupon that the batch names
    or that its orders reserved or redeemed. `moment`: the time at which coupons must be valid, by the database.
    """
    desk = _Desk(coupons, moment)
    verdict = protocol.decide(commands, closed, stored, desk.use, desk.release, past)
    return Decision(verdict, [coupon for coupon in desk.coupons.values() if coupon != coupons[coupon.coupon_id]])


class _Desk:
    """The working copy of one batch."""

    def __init__(self, coupons: Mapping[CouponId, Coupon], moment: datetime) -> None:
        self._moment = moment
        self.coupons = dict(coupons)
        self._of_order = {coupon.order_id: coupon.coupon_id for coupon in coupons.values() if coupon.order_id}

    def use(self, command: Command) -> Mapping[str, Any]:
        assert not isinstance(command, ReleaseCoupon)
        coupon = self.coupons.get(command.coupon_id)
        if coupon is None:
            raise _invalid("not-found")
        if isinstance(command, RedeemCoupon) and command.reserved:
            # It was valid when it was reserved; that it expired since is no reason to ask for more money.
            if coupon.status != "RESERVED" or coupon.order_id != command.order_id:
                raise NotReserved
            self.coupons[coupon.coupon_id] = replace(coupon, status=command.status)
            return {"discount_amount": coupon.discount_amount}
        self._check(coupon, command)
        discount = coupon.discount(command.subtotal_amount)
        self._of_order[command.order_id] = coupon.coupon_id
        self.coupons[coupon.coupon_id] = replace(
            coupon,
            status=command.status,
            order_id=command.order_id,
            discount_amount=discount,
        )
        return {"discount_amount": discount}

    def _check(self, coupon: Coupon, command: ReserveCoupon | RedeemCoupon) -> None:
        if coupon.user_id != command.user_id:
            raise _invalid("not-owner")
        if coupon.expires_at is not None and coupon.expires_at <= self._moment:
            raise _invalid("expired")
        if coupon.status == "REDEEMED":
            raise _invalid("already-used")
        if coupon.status == "RESERVED":
            raise _invalid("reserved")
        if command.subtotal_amount < coupon.min_subtotal:
            raise _invalid("below-minimum", min_subtotal=coupon.min_subtotal)
        if command.order_id in self._of_order:
            raise OrderHasCoupon

    def release(self, command: Command) -> Mapping[str, Any]:
        coupon_id = self._of_order.pop(OrderId(command.gate), None)
        if coupon_id is not None:
            self.coupons[coupon_id] = replace(
                self.coupons[coupon_id], status="AVAILABLE", order_id=None, discount_amount=None
            )
        return {}


def _invalid(reason: Reason, **members: Any) -> InvalidCoupon:
    return InvalidCoupon(_DETAILS[reason], reason=reason, **members)
