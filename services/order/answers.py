"""What a client is told when a saga has ended; the same bytes whether now, later or for a repeated key."""

from collections.abc import Mapping
from typing import Any

from services.order.domain import Order, OrderId, OrderNotPayable, OrderStatus
from services.order.saga import Kind
from shared.fast_dataclass import fast_dataclass
from shared.http.server import encode
from shared.refusals import Refusal


@fast_dataclass(frozen=True, slots=True)
class Answer:
    """A final HTTP answer: status, the body's bytes, and where the order is found."""

    status: int
    body: bytes
    location: str | None = None


def location(order: Order) -> str:
    """Return the path of an order."""
    return f"/v1/orders/{order.order_id}"


def instance(kind: Kind, order_id: OrderId) -> str:
    """Return the path of the request that a saga answers."""
    return {
        Kind.PLACE_NOW: "/v1/orders",
        Kind.PLACE_LATER: "/v1/orders",
        Kind.PAY: f"/v1/orders/{order_id}/payment",
        Kind.CLOSE: f"/v1/orders/{order_id}/cancel",
    }[kind]


def final(kind: Kind, order: Order, problem: Mapping[str, Any] | None, view: bytes) -> Answer:
    """Return the answer to an ended saga: its order (`view`, encoded once), or the problem that ended it."""
    path = instance(kind, order.order_id)
    if kind is Kind.PAY and order.status is OrderStatus.CANCELLED and problem is None:
        return refused(kind, OrderNotPayable("The payment was undone and the order cancelled."), order.order_id)
    if problem is not None:  # whatever the order has become since: this operation was refused
        body = {**problem, "order_id": str(order.order_id), "instance": path}
        return Answer(int(problem["status"]), encode(body))
    if kind in (Kind.PLACE_NOW, Kind.PLACE_LATER):
        return Answer(201, view, location(order))
    return Answer(200, view)


def already(order: Order) -> Answer:
    """Return the answer to an operation whose order is what it would have made it."""
    return Answer(200, encode(order.view()))


def refused(kind: Kind, refusal: Refusal, order_id: OrderId) -> Answer:
    """Return the answer to an operation that the order's state refuses."""
    body = {**refusal.problem(), "order_id": str(order_id), "instance": instance(kind, order_id)}
    return Answer(refusal.status, encode(body))
