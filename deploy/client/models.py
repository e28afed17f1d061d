"""What the services answer, and what is sent to them: the models of docs/api.md.

Amounts are integers in the minor unit of `currency`. Unknown fields of an answer are ignored: later versions add some.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class Reply(BaseModel):
    """Base of what a service answers."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Body(BaseModel):
    """Base of what a service is sent. The service checks the bounds; only names and types are checked here."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class OrderStatus(StrEnum):
    """Where an order is between its placement and its end."""

    PLACING = "PLACING"
    PAID = "PAID"
    PENDING_PAYMENT = "PENDING_PAYMENT"
    REJECTED = "REJECTED"
    PAYING = "PAYING"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    REFUNDED = "REFUNDED"


class Line(Body):
    """Units of one product, to be ordered."""

    product_id: str
    quantity: int


class NewOrder(Body):
    """What a customer wants to buy."""

    user_id: str | None = None
    lines: Sequence[Line]
    coupon_id: str | None = None
    payment: Literal["now", "later"] = "now"


class OrderLine(Reply):
    """A line of an order; name and prices are None until its stock is held."""

    product_id: str
    name: str | None
    quantity: int
    unit_price: int | None
    line_amount: int | None


class Order(Reply):
    """An order; amounts are None until they are known. `closing`: it is being cancelled, or it expires."""

    order_id: UUID
    user_id: str
    status: OrderStatus
    lines: Sequence[OrderLine]
    coupon_id: str | None = None
    subtotal_amount: int | None
    discount_amount: int | None
    total_amount: int | None
    currency: str
    created_at: datetime
    expires_at: datetime | None = None
    paid_at: datetime | None = None
    closing: bool | None = None
    reason: str | None = None


class TimelineItem(Reply):
    """Something that was done for an order; the wording may change."""

    at: datetime
    step: str
    outcome: str
    detail: str | None


class Timeline(Reply):
    """What was done for an order, oldest first."""

    items: Sequence[TimelineItem]


class NewProduct(Body):
    """A product to add."""

    product_id: str
    name: str
    price: int
    stock: int


class ProductChange(Body):
    """What to change of a product; None leaves it as it is."""

    name: str | None = None
    price: int | None = None


class StockMove(Body):
    """Units put in, or with a negative number taken out."""

    delta: int


class Product(Reply):
    """A product; `stock` is what is free to sell."""

    product_id: str
    name: str
    price: int
    stock: int
    currency: str


CouponStatus = Literal["AVAILABLE", "RESERVED", "REDEEMED"]


class NewCoupon(Body):
    """A coupon to give to a user. `value`: an amount, or 1 to 100 percent."""

    coupon_id: str
    user_id: str
    kind: Literal["fixed", "percent"]
    value: int
    max_discount: int | None = None
    min_subtotal: int = 0
    expires_at: datetime | None = None


class Coupon(Reply):
    """A coupon; `order_id` is the order that reserved or redeemed it."""

    coupon_id: str
    user_id: str
    kind: Literal["fixed", "percent"]
    value: int
    max_discount: int | None = None
    min_subtotal: int
    expires_at: datetime | None = None
    status: CouponStatus
    order_id: UUID | None = None
    discount_amount: int | None = None
    created_at: datetime
    currency: str


class NewCharge(Body):
    """Money paid in."""

    amount: int


class Account(Reply):
    """A user's account."""

    user_id: str
    balance: int
    currency: str


class Entry(Reply):
    """A line of the ledger; the amount of a debit is negative."""

    entry_id: UUID
    user_id: str
    number: int
    kind: Literal["charge", "debit", "refund"]
    amount: int
    counter_account: Literal["funding", "sales"]
    order_id: UUID | None = None
    attempt: int | None = None
    balance_after: int
    currency: str
    created_at: datetime


class Orders(Reply):
    """A page of orders, newest first."""

    items: Sequence[Order]
    next_cursor: str | None


class Products(Reply):
    """A page of products, by id."""

    items: Sequence[Product]
    next_cursor: str | None


class Coupons(Reply):
    """A page of coupons, by id."""

    items: Sequence[Coupon]
    next_cursor: str | None


class Entries(Reply):
    """A page of the ledger, newest first."""

    items: Sequence[Entry]
    next_cursor: str | None
