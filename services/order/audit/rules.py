"""The rules of the audit, without I/O: an order's due holds and events, and the findings where the books differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from services.order.domain import Order, OrderStatus
from services.order.product_shards import ONE_PRODUCT_SERVICE, ProductShards, participant_at
from services.order.saga import DEBIT, EVENTS, HOLD, REDEEM, Participant
from shared.encoding import to_json
from shared.slots import Ownership, slot_in, slot_of

Holds = Mapping[str, int | str]
HOLDING: tuple[OrderStatus, ...] = (OrderStatus.PAID, OrderStatus.PENDING_PAYMENT)
UNDO = {Participant.PRODUCT: HOLD.undo, Participant.COUPON: REDEEM.undo, Participant.BALANCE: DEBIT.undo}
NOTHING: Mapping[str, Holds] = {}


class Kind(StrEnum):
    """The kinds of disagreement."""

    ORPHAN = "orphan"  # held for a missing order, or for one that ended without it: an undo repairs it
    MISSING = "missing"  # due to a live order, but not held
    DIFFERENT = "different"  # held for a live order, but not what is due
    STRANDED = "stranded"  # the order waits for a saga, but has none
    EVENTS = "events"  # the order's events do not match its history
    MISPLACED = "misplaced"  # the order is of another cell, which would take its holds for orphans
    BOOKS = "books"  # a participant's own books don't add up


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement. `participant`: also the place of one of several product shards. `worth`: money in minor units,
    units of stock, or coupons, depending on the participant."""

    kind: Kind
    participant: str
    order_id: UUID | None
    due: Any
    found: Any
    worth: int

    def view(self) -> dict[str, Any]:
        """Return the finding as the API and the log show it."""
        return {
            "kind": self.kind.value,
            "participant": self.participant,
            "order_id": self.order_id,
            "due": to_json(self.due),
            "found": to_json(self.found),
            "worth": to_json(self.worth),
        }


def due(order: Order, shards: ProductShards = ONE_PRODUCT_SERVICE) -> Mapping[str, Holds]:
    """Return what each place must hold for an order without a live saga."""
    if order.status not in HOLDING:
        return NOTHING
    paid = order.status is OrderStatus.PAID
    coupon = {order.coupon_id: "REDEEMED" if paid else "RESERVED"} if order.coupon_id else {}
    money = {order.user_id: order.total_amount} if paid and order.total_amount else {}
    return {
        **shards.divide({line.product_id: line.quantity for line in order.lines}),
        Participant.COUPON: coupon,
        Participant.BALANCE: money,
    }


def compare(
    order_id: UUID,
    order: Order | None,
    found: Mapping[str, Holds],
    shards: ProductShards = ONE_PRODUCT_SERVICE,
) -> Iterator[Finding]:
    """Yield the findings for one order without a live saga, or for holds without an order. `found`: by place."""
    expected = NOTHING if order is None else due(order, shards)
    needed = {participant_at(place) for place, want in expected.items() if want}
    for place in shards.all_places:
        want, have = expected.get(place, {}), found.get(place, {})
        if want == have:
            continue
        if not want:
            # Held at a shard that does not have the product, the hold is not an orphan: if the setting of the shards
            # is wrong, its repair would give back what live orders hold.
            kind = Kind.DIFFERENT if participant_at(place) in needed else Kind.ORPHAN
        elif not have:
            kind = Kind.MISSING
        else:
            kind = Kind.DIFFERENT
        yield Finding(kind, str(place), order_id, dict(want), dict(have), _worth(want, have))


def compare_events(
    order: Order, stored: Sequence[str], *, forgotten: bool = False, arrived_with: int = 0
) -> Iterator[Finding]:
    """Yield a finding if the stored events, each given as sequence and type, do not match the order's history.

    `forgotten`: the order is so old that published events may have been dropped with their partition. Any of its events
    may be missing, because a partition with an unpublished event stays while later partitions are dropped.
    `arrived_with`: up to this sequence, the events are in the outbox of the cell from which the order came. Some may be
    here too, if it was here before.
    """
    history = [f"{sequence} {type_}" for sequence, type_ in enumerate(events_due(order), 1)]
    elsewhere = history[:arrived_with]
    expected = [event for event in history if event in stored or not (forgotten or event in elsewhere)]
    if len(history) != order.event_sequence or list(stored) != expected:
        yield Finding(Kind.EVENTS, "order", order.order_id, history, list(stored), 1)


def events_due(order: Order) -> list[str]:
    """Return, in sequence, the types of the events that an order without a live saga must have written."""
    later = order.expires_at is not None
    placed = [EVENTS[OrderStatus.PENDING_PAYMENT]] if later else []
    paid = [EVENTS[OrderStatus.PAID]]
    history = {
        OrderStatus.PENDING_PAYMENT: placed,
        OrderStatus.PAID: placed + paid,
        OrderStatus.EXPIRED: [*placed, EVENTS[OrderStatus.EXPIRED]],
        OrderStatus.CANCELLED: [*placed, EVENTS[OrderStatus.CANCELLED]],
        OrderStatus.REFUNDED: [*placed, *paid, EVENTS[OrderStatus.REFUNDED]],
    }
    return history.get(order.status, [])


def compare_progress(order: Order) -> Iterator[Finding]:
    """Yield a finding if an order without a live saga needs one: it would stay in its status for ever."""
    if order.closing is not None or order.status in (OrderStatus.PLACING, OrderStatus.PAYING):
        found = f"{order.status} closing" if order.closing else order.status.value
        yield Finding(Kind.STRANDED, "order", order.order_id, "a live saga", found, 1)


def compare_cell(order: Order, ownership: Ownership) -> Iterator[Finding]:
    """Yield a finding if an order is in this cell, and its id says that it is in another.

    Without a time since when ids contain a slot, nothing is known. With one, this also proves in the only cell that the
    time is right: each later id contains the slot of the order's user.
    """
    order_id = order.order_id
    has_slot_of_user = ownership.is_older(order_id) or slot_in(order_id) == slot_of(order.user_id)
    if ownership.since_milliseconds and not (ownership.owns(order_id) and has_slot_of_user):
        yield Finding(Kind.MISPLACED, "order", order_id, slot_of(order.user_id), slot_in(order_id), 1)


def _worth(want: Holds, have: Holds) -> int:
    """Return the difference in units or money; a coupon counts as one."""
    total = 0
    for name in {*want, *have}:
        left, right = want.get(name, 0), have.get(name, 0)
        if isinstance(left, str) or isinstance(right, str):
            total += left != right
        else:
            total += abs(left - right)
    return total
