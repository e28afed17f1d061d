"""Coupons: give them to users, and read them."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal

from .lists import LISTED, every
from .models import Coupon, Coupons, CouponStatus, NewCoupon
from .problems import CouponExists, CouponNotFound, NoFinalAnswer, Problem
from .retries import Deadline
from .transport import AfterUncertainty, Call, Request, Service, Transport, new_key

CREATE = Call(Service.COUPON, "POST", "/v1/coupons", {201: Coupon}, NewCoupon)
LIST = Call(Service.COUPON, "GET", "/v1/coupons", {200: Coupons}, query=LISTED | {"user_id", "status"})
GET = Call(Service.COUPON, "GET", "/v1/coupons/{coupon_id}", {200: Coupon}, query=frozenset({"user_id"}))
CALLS = (CREATE, LIST, GET)
GIVEN = ("user_id", "kind", "value", "max_discount", "min_subtotal", "expires_at")  # what never changes


class CouponCalls:
    """The calls of the coupon service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self,
        *,
        user_id: str,
        kind: Literal["fixed", "percent"],
        value: int,
        max_discount: int | None = None,
        min_subtotal: int = 0,
        expires_at: datetime | None = None,
        coupon_id: str | None = None,
        deadline_seconds: float | None = None,
    ) -> Coupon:
        """Give a coupon to a user; its id is made if none is given. Raises CouponExists if it was there before.

        If an earlier attempt of this call may have made the coupon, and it is the same, that counts.
        """
        body = NewCoupon(
            coupon_id=coupon_id or new_key(),
            user_id=user_id,
            kind=kind,
            value=value,
            max_discount=max_discount,
            min_subtotal=min_subtotal,
            expires_at=expires_at,
        )
        deadline = self._transport.deadline(deadline_seconds)
        try:
            return (await self._transport.send(Request(CREATE, body=body), deadline)).model  # type: ignore[no-any-return]
        except AfterUncertainty as error:
            if not isinstance(error.refusal, CouponExists):
                raise error.for_callers() from None
            try:
                found = await self._get(body.coupon_id, user_id, deadline)
            except CouponNotFound:  # it is another user's
                raise error.for_callers() from None
            except Problem as problem:  # about reading the coupon, not about making it
                raise NoFinalAnswer(problem, None) from problem
            if any(getattr(found, name) != getattr(body, name) for name in GIVEN):
                raise error.for_callers() from None
            return found

    async def get(self, coupon_id: str, *, user_id: str | None = None, deadline_seconds: float | None = None) -> Coupon:
        """Return a coupon. Where the platform has several cells, another user's needs their `user_id`."""
        return await self._get(coupon_id, user_id, self._transport.deadline(deadline_seconds))

    async def _get(self, coupon_id: str, user_id: str | None, deadline: Deadline) -> Coupon:
        query = {} if user_id is None else {"user_id": user_id}
        coupon: Coupon = await self._transport.model(Request(GET, {"coupon_id": coupon_id}, query), deadline)
        return coupon

    def list(
        self, *, user_id: str | None = None, status: CouponStatus | None = None, page_size: int = 100
    ) -> AsyncIterator[Coupon]:
        """Yield coupons by id. Each page has a deadline of its own."""
        return every(self._transport, LIST, {"user_id": user_id, "status": status}, page_size)
