"""Defines the data of the topic's events, version 1: one model per type. Only types and optional fields may be added.

The models refuse unknown fields, so that a field that is not described here is found by the tests. Readers must not:
the published schemas allow them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from shared.contracts.types import Amount, Wire

TOPIC = "orders.v1"
SOURCE = "/services/order"

Quantity = Annotated[int, Field(ge=1)]


class OrderLine(Wire):
    """A line; name and prices are null until its stock is held."""

    product_id: str
    name: str | None
    quantity: Quantity
    unit_price: Amount | None
    line_amount: Amount | None


class Order(Wire):
    """An order, as in answers of the API and in events; amounts are in minor units of `currency`."""

    order_id: UUID
    user_id: str
    status: str
    lines: Sequence[OrderLine]
    coupon_id: str | None = None
    subtotal_amount: Amount | None
    discount_amount: Amount | None
    total_amount: Amount | None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    created_at: datetime
    expires_at: datetime | None = None
    paid_at: datetime | None = None


class PricedLine(OrderLine):
    """A line at the price that the order was placed at."""

    name: str
    unit_price: Amount
    line_amount: Annotated[Amount, Field(description="quantity x unit_price")]


class OrderEvent(Order):
    """The order at the moment of an event; amounts are in minor units of `currency`."""

    lines: Sequence[PricedLine]
    coupon_id: Annotated[str | None, Field(description="left out without a coupon")] = None
    subtotal_amount: Amount
    discount_amount: Amount
    total_amount: Annotated[Amount, Field(description="subtotal_amount - discount_amount")]
    expires_at: Annotated[
        datetime | None, Field(description="of an order that is paid later; it stays after payment")
    ] = None
    paid_at: Annotated[datetime | None, Field(description="once it was paid; it stays after a refund")] = None
    redacted: Annotated[
        Literal[True] | None, Field(description="an operator emptied `lines`; everything else is as it was")
    ] = None


class OrderPlaced(OrderEvent):
    """An order that is paid later waits for its payment."""

    status: Literal["PENDING_PAYMENT"]
    expires_at: Annotated[datetime, Field(description="it expires unless it is paid before")]


class OrderPaid(OrderEvent):
    """An order was paid, at once or later."""

    status: Literal["PAID"]
    paid_at: datetime


class OrderExpired(OrderEvent):
    """An order was not paid in time; stock and coupon are given back."""

    status: Literal["EXPIRED"]
    expires_at: datetime


class OrderCancelled(OrderEvent):
    """An order was cancelled before it was paid; stock and coupon are given back."""

    status: Literal["CANCELLED"]
    expires_at: datetime


class OrderRefunded(OrderEvent):
    """An order was cancelled after it was paid; money, stock and coupon are given back."""

    status: Literal["REFUNDED"]
    paid_at: datetime


EVENTS: Mapping[str, type[OrderEvent]] = {
    "order.placed.v1": OrderPlaced,
    "order.paid.v1": OrderPaid,
    "order.expired.v1": OrderExpired,
    "order.cancelled.v1": OrderCancelled,
    "order.refunded.v1": OrderRefunded,
}
