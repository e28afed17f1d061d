"""Which uses of coupons take the fast path. The others need no database here, because none is used for them."""

from typing import Any

import pytest

from services.coupon.batch import fast_path
from services.coupon.domain import CouponId, OrderId, RedeemCoupon, UserId
from shared.ids import uuid7

COUPON = CouponId("c1")


def redeem(*, reserved: bool = False) -> RedeemCoupon:
    return RedeemCoupon(OrderId(uuid7()), COUPON, UserId("ann"), 100, 0, reserved)


@pytest.mark.parametrize(
    "uses", [[redeem(), redeem()], [redeem(reserved=True)]], ids=["two of one coupon", "a reserved coupon"]
)
async def test_use_that_the_fast_path_cannot_do_right_is_left_to_the_transaction(uses: list[RedeemCoupon]) -> None:
    unused: Any = None
    assert await fast_path(unused, uses) == {}
