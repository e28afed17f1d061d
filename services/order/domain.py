"""Orders and their rules: an order's fields, its price, and when it may be paid or closed. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType
from uuid import UUID

from shared.fast_dataclass import fast_dataclass, replace
from shared.refusals import Refusal

OrderId = NewType("OrderId", UUID)
SagaId = NewType("SagaId", UUID)

AMOUNT_MAX = 2**63 - 1  # the largest bigint


class OrderStatus(StrEnum):
    """The statuses of an order; docs/architecture.md draws the transitions between them."""

    PLACING = "PLACING"
    PAID = "PAID"
    PENDING_PAYMENT = "PENDING_PAYMENT"
    REJECTED = "REJECTED"
    PAYING = "PAYING"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    REFUNDED = "REFUNDED"


class OrderNotFound(Refusal):
    """There is no such order."""

    slug = "order-not-found"
    status = 404


class OrderExpired(Refusal):
    """The order was not paid in time."""

    slug = "order-expired"
    status = 409


class OrderNotPayable(Refusal):
    """The order is not waiting for a payment."""

    slug = "order-not-payable"
    status = 409


class OrderNotCancellable(Refusal):
    """The order can't be cancelled as it stands."""

    slug = "order-not-cancellable"
    status = 409


class ForcedByOperator(Refusal):
    """An operator had the order undone."""

    slug = "undone-by-operator"
    status = 409


class OrderWithdrawn(Refusal):
    """The order was withdrawn by an operator while it was being placed."""

    slug = "order-withdrawn"
    status = 409


class AmountTooLarge(Refusal):
    """The order's amount is larger than an account can hold."""

    slug = "amount-too-large"


@fast_dataclass(frozen=True, slots=True)
class Line:
    """Units of one product; name and price (minor units) are unknown until the stock is held."""

    product_id: str
    quantity: int
    name: str | None = None
    unit_price: int | None = None

    @property
    def amount(self) -> int | None:
        """Return quantity x unit price, or None while the price is unknown."""
        return None if self.unit_price is None else self.quantity * self.unit_price

    def wish(self) -> dict[str, Any]:
        """Return the line as a command to hold its units has it."""
        return {"product_id": self.product_id, "quantity": self.quantity}

    def view(self) -> dict[str, Any]:
        """Return the line in the contract's format."""
        return {
            "product_id": self.product_id,
            "name": self.name,
            "quantity": self.quantity,
            "unit_price": self.unit_price,
            "line_amount": self.amount,
        }


@fast_dataclass(frozen=True, slots=True)
class Order:
    """An order as stored. Amounts are in minor units of `currency`, None until known."""

    order_id: OrderId
    user_id: str
    status: OrderStatus
    lines: tuple[Line, ...]
    currency: str
    created_at: datetime
    coupon_id: str | None = None
    subtotal_amount: int | None = None
    discount_amount: int | None = None
    total_amount: int | None = None
    closing: OrderStatus | None = None
    reason: str | None = None
    payment_attempt: int = 0
    event_sequence: int = 0
    expires_at: datetime | None = None
    paid_at: datetime | None = None

    def view(self) -> dict[str, Any]:
        """Return the order in the format of the contract and the events; fields that do not apply are omitted."""
        view: dict[str, Any] = {
            "order_id": str(self.order_id),
            "user_id": self.user_id,
            "status": self.status.value,
            "lines": [line.view() for line in self.lines],
            "subtotal_amount": self.subtotal_amount,
            "discount_amount": self.discount_amount,
            "total_amount": self.total_amount,
            "currency": self.currency,
            "created_at": self.created_at,
        }
        optional = {
            "coupon_id": self.coupon_id,
            "expires_at": self.expires_at,
            "paid_at": self.paid_at,
            "closing": True if self.closing else None,
            "reason": self.reason,
        }
        return view | {name: value for name, value in optional.items() if value is not None}


def price(order: Order, held: Sequence[Mapping[str, Any]]) -> Order:
    """Return the order with the names and prices of its held stock, without a discount yet.

    Raises AmountTooLarge if the subtotal exceeds what an account can hold.
    """
    by_product = {line["product_id"]: line for line in held}
    lines = tuple(
        Line(
            line.product_id,
            line.quantity,
            by_product[line.product_id]["name"],
            by_product[line.product_id]["unit_price"],
        )
        for line in order.lines
    )
    subtotal = sum(line.amount or 0 for line in lines)
    if subtotal > AMOUNT_MAX:
        raise AmountTooLarge
    return replace(order, lines=lines, subtotal_amount=subtotal, discount_amount=0, total_amount=subtotal)


def discount(order: Order, discount_amount: int) -> Order:
    """Return the priced order less a discount."""
    assert order.subtotal_amount is not None
    total = order.subtotal_amount - discount_amount
    return replace(order, discount_amount=discount_amount, total_amount=total)


def without_products(problem: Mapping[str, Any] | None, lines: Sequence[Line]) -> Mapping[str, Any] | None:
    """Return an order's problem with `line_bits`, a bit for each line, in place of its `product_ids`.

    A problem is stored so: the order has the ids already, and a refused request could have 50 of 512 bytes each.
    """
    if problem is None or "product_ids" not in problem:
        return problem
    named = set(problem["product_ids"])
    bits = sum(1 << place for place, line in enumerate(lines) if line.product_id in named)
    short = {name: value for name, value in problem.items() if name != "product_ids"} | {"line_bits": bits}
    # A participant of another version could name other products, or name them in another order.
    return short if with_products(short, lines) == problem else problem


def with_products(short: Mapping[str, Any] | None, lines: Sequence[Line]) -> Mapping[str, Any] | None:
    """Return the problem for which `without_products` returned `short`."""
    if short is None or "line_bits" not in short:
        return short
    products = [line.product_id for place, line in enumerate(lines) if short["line_bits"] >> place & 1]
    return {name: value for name, value in short.items() if name != "line_bits"} | {"product_ids": products}


@fast_dataclass(frozen=True, slots=True)
class Live:
    """An order's live saga; it conflicts with a second operation on the order."""

    saga_id: SagaId
    kind: str


@fast_dataclass(frozen=True, slots=True)
class Begin:
    """The operation may start; for a closing, `target` is the order's final status."""

    target: OrderStatus | None = None


@fast_dataclass(frozen=True, slots=True)
class Attach:
    """The same operation is already running; its result also answers this request."""

    saga_id: SagaId


@fast_dataclass(frozen=True, slots=True)
class Already:
    """The order already has the requested status."""


Ruling = Begin | Attach | Already


def rule_on_payment(order: Order, live: Live | None, now: datetime) -> Ruling:
    """Decide whether an order may be paid at `now`, the database's clock. Raises OrderExpired, OrderNotPayable."""
    if order.status is OrderStatus.PAYING and live is not None and live.kind == "pay":
        return Attach(live.saga_id)
    if order.status is OrderStatus.EXPIRED or order.closing is OrderStatus.EXPIRED:
        raise OrderExpired
    if order.closing is None and order.status is OrderStatus.PAID:
        return Already()
    if order.status is not OrderStatus.PENDING_PAYMENT or order.closing is not None or live is not None:
        raise OrderNotPayable(f"The order is {'being closed' if order.closing else order.status.value}.")
    if order.expires_at is not None and order.expires_at <= now:
        raise OrderExpired
    return Begin()


def rule_on_cancellation(order: Order, live: Live | None) -> Ruling:
    """Decide whether an order may be cancelled. Raises OrderNotCancellable."""
    if order.status in (OrderStatus.CANCELLED, OrderStatus.REFUNDED):
        return Already()
    if order.closing in (OrderStatus.CANCELLED, OrderStatus.REFUNDED) and live is not None:
        return Attach(live.saga_id)
    if live is None and order.closing is None:
        if order.status is OrderStatus.PENDING_PAYMENT:
            return Begin(OrderStatus.CANCELLED)
        if order.status is OrderStatus.PAID:
            return Begin(OrderStatus.REFUNDED)
    raise OrderNotCancellable(f"The order is {'being closed' if order.closing else order.status.value}.")


def rule_on_expiry(order: Order, live: Live | None, now: datetime) -> Ruling:
    """Decide whether an order has expired at `now`, the database's clock. Raises OrderNotCancellable."""
    due = order.expires_at is not None and order.expires_at <= now
    if order.status is OrderStatus.PENDING_PAYMENT and order.closing is None and live is None and due:
        return Begin(OrderStatus.EXPIRED)
    raise OrderNotCancellable("The order no longer waits for its payment, or is not due yet.")
