"""The rules: which of the events that have come can be applied, in sequence per order, and what that changes. Standard
library only; no I/O, no clock."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from deploy.consumer.events import Event, Order

APPLIED = "APPLIED"  # it changed the projection
IGNORED = "IGNORED"  # its type is unknown: kept, and the stream goes on
WAITING = "WAITING"  # one before it is missing
LATE = "LATE"  # one after it was applied already, since it was believed to be lost


@dataclass(frozen=True, slots=True)
class Stream:
    """How far an order's stream is applied, and the order as it is then."""

    sequence: int = 0
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Sales:
    """What paid and refunded orders come to; also a difference of it."""

    paid_orders: int = 0
    paid_amount: int = 0
    refunded_orders: int = 0
    refunded_amount: int = 0

    def __add__(self, other: "Sales") -> "Sales":
        return Sales(
            self.paid_orders + other.paid_orders,
            self.paid_amount + other.paid_amount,
            self.refunded_orders + other.refunded_orders,
            self.refunded_amount + other.refunded_amount,
        )


@dataclass(slots=True)
class Decision:
    """What to write: the state of each event, the streams that moved, which of them wait, and the sales by currency."""

    states: dict[UUID, str] = field(default_factory=dict)
    streams: dict[UUID, Stream] = field(default_factory=dict)
    waiting: dict[UUID, bool] = field(default_factory=dict)
    sales: dict[str, Sales] = field(default_factory=lambda: defaultdict(Sales))


def decide(
    streams: Mapping[UUID, Stream],
    events: Iterable[Event],
    given_up: Mapping[UUID, Collection[int]],
) -> Decision:
    """Apply what can be applied.

    `events`: those that are new and those that wait, each once. `given_up`: by order, sequences that will never come.
    """
    decision = Decision()
    by_order: dict[UUID, list[Event]] = {order_id: [] for order_id in given_up}
    for event in events:
        by_order.setdefault(event.order_id, []).append(event)
    for order_id, own in by_order.items():
        stream = streams.get(order_id, Stream())
        after = _run(stream, sorted(own, key=lambda event: event.sequence), given_up.get(order_id, ()), decision)
        decision.streams[order_id] = after
        decision.waiting[order_id] = any(decision.states[event.event_id] == WAITING for event in own)
        for order, sign in ((after.order, 1), (stream.order, -1)):
            if order is not None:
                decision.sales[order.currency] += _counted(order, sign)
    return decision


def _run(stream: Stream, events: Sequence[Event], given_up: Collection[int], decision: Decision) -> Stream:
    """Return the stream after what follows it without a gap, and note each event's state."""
    for event in events:
        while stream.sequence + 1 in given_up and stream.sequence + 1 < event.sequence:
            stream = Stream(stream.sequence + 1, stream.order)
        if event.sequence <= stream.sequence:
            decision.states[event.event_id] = LATE
        elif event.sequence > stream.sequence + 1:
            decision.states[event.event_id] = WAITING
        elif event.order is None:
            decision.states[event.event_id] = IGNORED
            stream = Stream(event.sequence, stream.order)
        else:
            decision.states[event.event_id] = APPLIED
            stream = Stream(event.sequence, event.order)
    return stream


def _counted(order: Order, sign: int) -> Sales:
    """What one order adds to the sales; by its status, so that it is right whichever events were seen of it."""
    paid = order.status in ("PAID", "REFUNDED")
    refunded = order.status == "REFUNDED"
    return Sales(sign * paid, sign * paid * order.total_amount, sign * refunded, sign * refunded * order.total_amount)
