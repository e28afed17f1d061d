"""The refusals that a participant decides and the order service passes on to its clients."""

from typing import Any

from shared.refusals import Refusal


class ProductNotFound(Refusal):
    """There is no such product."""

    slug = "product-not-found"
    status = 404


class OutOfStock(Refusal):
    """There are fewer units than asked for."""

    slug = "out-of-stock"


class InvalidCoupon(Refusal):
    """The coupon can't be used for this order."""

    slug = "invalid-coupon"

    def __init__(self, detail: str, *, reason: str, **members: Any) -> None:
        super().__init__(detail, reason=reason, **members)


class NotReserved(Refusal):
    """The order has not reserved this coupon."""

    slug = "coupon-not-reserved"
    status = 409


class OrderHasCoupon(Refusal):
    """The order has a coupon already."""

    slug = "order-has-coupon"
    status = 409


class InsufficientBalance(Refusal):
    """The balance is lower than the amount to pay."""

    slug = "insufficient-balance"

    def __init__(self, required: int, available: int) -> None:
        super().__init__(
            f"The payment takes {required}, the account has {available}.", required=required, available=available
        )
