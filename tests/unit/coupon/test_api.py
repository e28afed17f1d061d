"""Which coupons can be given."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.coupon.api import PERCENT_MAX, NewCoupon

COUPON: dict[str, Any] = {"user_id": "ann", "kind": "percent"}


def test_percentage_up_to_100_is_accepted() -> None:
    assert NewCoupon.model_validate({**COUPON, "value": PERCENT_MAX}).value == 100


def test_percentage_above_100_is_refused() -> None:
    with pytest.raises(ValidationError, match="at the most"):
        NewCoupon.model_validate({**COUPON, "value": PERCENT_MAX + 1})


def test_fixed_value_above_100_is_accepted() -> None:
    assert NewCoupon.model_validate({**COUPON, "kind": "fixed", "value": PERCENT_MAX + 1}).value == 101
