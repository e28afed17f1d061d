"""Orders and sagas for tests of rules, and a driver that runs a saga with scripted outcomes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.order.domain import Line, Live, Order, OrderId, OrderStatus, SagaId, price
from services.order.saga import (
    VERSION,
    Command,
    Kind,
    Saga,
    Send,
    Status,
    Transition,
    committed,
    learn,
    next_move,
)
from shared.participant.protocol import FENCED, Outcome

ORDER_ID = OrderId(UUID(int=1))
SAGA_ID = SagaId(UUID(int=2))
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=15)

PRICES = {"cup": ("Cup", 1000), "pen": ("Pen", 300)}
OUT_OF_STOCK = Outcome(False, {"type": "/problems/out-of-stock", "status": 400, "detail": "Too few units of cup."})
INVALID_COUPON = Outcome(False, {"type": "/problems/invalid-coupon", "status": 400, "detail": "It has expired."})
NO_MONEY = Outcome(False, {"type": "/problems/insufficient-balance", "status": 400, "detail": "The account has 5."})
REFUSALS = {
    "hold_stock": OUT_OF_STOCK,
    "reserve_coupon": INVALID_COUPON,
    "redeem_coupon": INVALID_COUPON,
    "debit": NO_MONEY,
}
STATUS_WHILE_RUNNING = {
    Kind.PLACE_NOW: OrderStatus.PLACING,
    Kind.PLACE_LATER: OrderStatus.PLACING,
    Kind.PAY: OrderStatus.PAYING,
    Kind.CLOSE: OrderStatus.PENDING_PAYMENT,
}


def an_order(status: OrderStatus = OrderStatus.PLACING, **fields: Any) -> Order:
    """Return an order of two cups and a pen; it has prices once it is past its placement."""
    order = Order(ORDER_ID, "ann", status, (Line("cup", 2), Line("pen", 1)), "KRW", NOW)
    if status not in (OrderStatus.PLACING, OrderStatus.REJECTED):
        order = price(order, held())
    return replace(order, **fields)


def held(prices: Mapping[str, tuple[str, int]] = PRICES) -> list[dict[str, Any]]:
    """Return the result of a hold of that order's lines."""
    return [{"product_id": product, "name": name, "unit_price": price} for product, (name, price) in prices.items()]


def a_live_saga(kind: str = "close") -> Live:
    """Return the live saga of the order."""
    return Live(SAGA_ID, kind)


def a_saga(kind: Kind, *, coupon: bool = True, free: bool = False, **fields: Any) -> Saga:
    """Return a saga that has just been started."""
    order = an_order(STATUS_WHILE_RUNNING[kind], coupon_id="WELCOME" if coupon else None)
    if free:
        order = replace(order, lines=(Line("gift", 1),))
        if order.subtotal_amount is not None:
            order = price(order, GIFT)
    saga = Saga(SAGA_ID, kind, VERSION, Status.RUNNING, order, attempt=1 if kind is not Kind.PLACE_LATER else 0)
    if kind is Kind.CLOSE:
        saga = replace(saga, status=Status.COMPENSATING, target=OrderStatus.CANCELLED, attempt=0)
    return replace(saga, **fields)


GIFT = [{"product_id": "gift", "name": "Gift", "unit_price": 0}]


def applied(command: Command, discount_amount: int = 100) -> Outcome:
    """Return the outcome of an applied command."""
    products = [line["product_id"] for line in command.fields.get("lines", [])]
    lines = GIFT if products == ["gift"] else held()
    return Outcome(True, {"lines": lines, "discount_amount": discount_amount, "balance": 7})


@dataclass(slots=True)
class Run:
    """A saga's run: the types of the sent commands, by round, and the committed transitions."""

    saga: Saga
    sent: list[list[str]] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)

    @property
    def end(self) -> Transition:
        """Return the last transition."""
        return self.transitions[-1]


def run(saga: Saga, refusing: Mapping[str, Outcome] | None = None, discount_amount: int = 0) -> Run:
    """Run a saga to its end; `refusing` maps the types of commands to their refusals."""
    done = Run(saga)
    refusing = refusing or {}
    while saga.status.live:
        move = next_move(saga)
        if isinstance(move, Transition):
            done.transitions.append(move)
            saga = committed(saga, move, replace(saga.order, status=move.order_to))
            continue
        assert isinstance(move, Send)
        done.sent.append([command.type for command in move.commands])
        done.commands += move.commands
        for command in move.commands:
            saga = learn(saga, command, refusing.get(command.type) or applied(command, discount_amount))
        assert len(done.sent) < 20, "the saga goes round in circles"
    done.saga = saga
    return done


__all__ = ["FENCED", "Run", "a_live_saga", "a_saga", "an_order", "applied", "held", "run"]
