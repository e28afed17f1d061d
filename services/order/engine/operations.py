"""The operations that clients and the scheduler request, and the possible results of starting them."""

import hashlib
from collections.abc import Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

import orjson

from services.order.domain import Line, Order, OrderId, OrderStatus, SagaId
from services.order.saga import Kind, Saga
from services.order.store import Answer, KeyPlace
from shared.fast_dataclass import fast_dataclass
from shared.ids import uuid7
from shared.slots import slot_of

NOT_YET = datetime.min.replace(tzinfo=UTC)


@fast_dataclass(frozen=True, slots=True)
class KeyClaim:
    """A client's idempotency key for one operation; `fingerprint` is the SHA-256 of the request that it came with."""

    user_id: str
    operation: str
    key: str
    fingerprint: bytes

    @property
    def place(self) -> KeyPlace:
        """Return the fields that identify the key."""
        return (self.user_id, self.operation, self.key)


def fingerprint(request: Any) -> bytes:
    """Return the fingerprint of a parsed request: formatting and the order of members don't matter."""
    return hashlib.sha256(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)).digest()


@fast_dataclass(frozen=True, slots=True)
class Start:
    """A request to begin an operation.

    `order` is the new order of a placement; the other operations have an `order_id`. `expiring` distinguishes the
    scheduler's closing from a client's cancellation.
    """

    kind: Kind
    order_id: OrderId
    order: Order | None = None
    key: KeyClaim | None = None
    expiring: bool = False
    traceparent: str | None = None
    saga_id: SagaId = field(default_factory=lambda: SagaId(uuid7()))


@fast_dataclass(frozen=True, slots=True)
class Begun:
    """The operation has begun; this process must run its saga."""

    saga: Saga


@fast_dataclass(frozen=True, slots=True)
class Attached:
    """The operation was already running; the end of its saga answers this request too."""

    saga_id: SagaId
    order: Order


# An Answer is already known: the order already has the requested status, or the key was used before.
Started = Begun | Attached | Answer


def new_order(
    now: datetime, user_id: str, lines: Sequence[tuple[str, int]], coupon_id: str | None, *, pay_now: bool
) -> Order:
    """Return an order that is about to be placed; the database sets its time and currency.

    `now` is the database's time: participants refuse an order whose id is older than their horizon. The id contains the
    user's slot, by which a router finds the order's cell.
    """
    return Order(
        order_id=OrderId(uuid7(now, slot_of(user_id))),
        user_id=user_id,
        status=OrderStatus.PLACING,
        lines=tuple(Line(product_id, quantity) for product_id, quantity in lines),
        currency="",
        created_at=NOT_YET,
        coupon_id=coupon_id,
        payment_attempt=1 if pay_now else 0,
    )
