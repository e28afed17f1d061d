"""The saga: a pure table of steps and transitions. No I/O, no clock, no randomness.

    kind         steps                                   undone by
    place_now    hold_stock  redeem_coupon*  debit**     refund  release_coupon*  restore_stock
    place_later  hold_stock  reserve_coupon*             release_coupon*  restore_stock
    pay          debit**  redeem_coupon*                 (only when forced: all of them, the order is cancelled)
    close        -                                       refund  release_coupon*  restore_stock
                 * only with a coupon    ** only with a total above 0

The runner calls `next_move`, executes the move, and passes its result to `learn` or `committed`. Every command can be
repeated: participants answer a repeat with the stored outcome. So a saga that is taken over starts from its first step
again and gets the same answers.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from services.order.domain import AmountTooLarge, Line, Order, OrderStatus, OrderWithdrawn, SagaId, discount, price
from shared.fast_dataclass import fast_dataclass, replace
from shared.participant.protocol import Outcome, is_fenced

VERSION: Final = 1
# The definitions that this build can run. It leaves a saga of another version to a build that knows the version.
VERSIONS_KNOWN: Final = (1,)


class Kind(StrEnum):
    """The operation that a saga carries out."""

    PLACE_NOW = "place_now"
    PLACE_LATER = "place_later"
    PAY = "pay"
    CLOSE = "close"


class Status(StrEnum):
    """The direction of a saga, and whether it has ended."""

    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    DONE = "DONE"
    COMPENSATED = "COMPENSATED"

    @property
    def live(self) -> bool:
        """Return whether the saga has not ended."""
        return self in (Status.RUNNING, Status.COMPENSATING)


class Participant(StrEnum):
    """The service that carries out a step."""

    PRODUCT = "product"
    COUPON = "coupon"
    BALANCE = "balance"


@fast_dataclass(frozen=True, slots=True)
class Step:
    """One step: its command, the command that undoes it, and the participant of both."""

    do: str
    undo: str
    participant: Participant


HOLD = Step("hold_stock", "restore_stock", Participant.PRODUCT)
RESERVE = Step("reserve_coupon", "release_coupon", Participant.COUPON)
REDEEM = Step("redeem_coupon", "release_coupon", Participant.COUPON)
DEBIT = Step("debit", "refund", Participant.BALANCE)

STEPS: Final[Mapping[Kind, tuple[Step, ...]]] = {
    Kind.PLACE_NOW: (HOLD, REDEEM, DEBIT),
    Kind.PLACE_LATER: (HOLD, RESERVE),
    Kind.PAY: (DEBIT, REDEEM),
    Kind.CLOSE: (),
}
# All steps that may ever have been sent for an order of this kind of saga, so undoing these is always enough.
UNDONE: Final[Mapping[Kind, tuple[Step, ...]]] = {
    Kind.PLACE_NOW: (DEBIT, REDEEM, HOLD),
    Kind.PLACE_LATER: (RESERVE, HOLD),
    Kind.PAY: (DEBIT, REDEEM, HOLD),
    Kind.CLOSE: (DEBIT, REDEEM, HOLD),
}
EVENTS: Final[Mapping[OrderStatus, str]] = {
    OrderStatus.PENDING_PAYMENT: "order.placed.v1",
    OrderStatus.PAID: "order.paid.v1",
    OrderStatus.EXPIRED: "order.expired.v1",
    OrderStatus.CANCELLED: "order.cancelled.v1",
    OrderStatus.REFUNDED: "order.refunded.v1",
}


@fast_dataclass(frozen=True, slots=True)
class Command:
    """A command to a participant; `fields` are those besides type, order_id and attempt.

    `participant`: a Participant, or the place of one of several product shards. `lines`: those of the order, by which a
    command to the products finds its shards (product_shards.py).
    """

    participant: str
    type: str
    order_id: str
    attempt: int
    fields: Mapping[str, Any]
    lines: Sequence[Line] = ()

    def wire(self) -> dict[str, Any]:
        """Return the command in the protocol's format."""
        return {"type": self.type, "order_id": self.order_id, "attempt": self.attempt, **self.fields}


@fast_dataclass(frozen=True, slots=True)
class PartlyRefused(Outcome):
    """The outcome of a command to several product shards, of which some have refused it and others have applied it."""


@fast_dataclass(frozen=True, slots=True)
class Saga:
    """A saga as its runner knows it: the stored row, the order, and the outcomes of this run.

    `applied`: the steps known to be applied. `undone`: the undos that were acknowledged or are known to be unneeded.
    `refused` and `problem`: the refused step, and the reason.
    """

    saga_id: SagaId
    kind: Kind
    version: int
    status: Status
    order: Order
    attempt: int = 0
    target: OrderStatus | None = None
    applied: frozenset[str] = frozenset()
    undone: frozenset[str] = frozenset()
    refused: str | None = None
    problem: Mapping[str, Any] | None = None
    traceparent: str | None = None


@fast_dataclass(frozen=True, slots=True)
class Send:
    """The next move: send these commands concurrently, and wait for their outcomes."""

    commands: tuple[Command, ...]


@fast_dataclass(frozen=True, slots=True)
class Transition:
    """The next move: one commit of saga, order, event and answer, guarded on the saga's id and both statuses."""

    saga_from: Status
    saga_to: Status
    order_from: OrderStatus
    order_to: OrderStatus
    target: OrderStatus | None = None
    event: str | None = None
    problem: Mapping[str, Any] | None = None


Move = Send | Transition


def next_move(saga: Saga) -> Move:
    """Return the next move of a live saga."""
    if saga.status is Status.COMPENSATING:
        left = tuple(step for step in undos(saga) if step.undo not in saga.undone)
        if left:
            return Send(tuple(_undo(step, saga) for step in left))
        return _compensated(saga)
    if saga.refused is not None:
        return _decision(saga)
    for step in STEPS[saga.kind]:
        if step.do not in saga.applied and _has(saga, step):
            return Send((do(step, saga.order, saga.attempt, reserved=saga.kind is Kind.PAY),))
    return _finished(saga)


def steps(saga: Saga) -> tuple[Step, ...]:
    """Return the saga's steps. Before the order is priced, it is unknown whether there is something to debit."""
    return tuple(step for step in STEPS[saga.kind] if _has(saga, step))


def _has(saga: Saga, step: Step) -> bool:
    if step is DEBIT:
        return saga.order.total_amount != 0
    return step.participant is not Participant.COUPON or saga.order.coupon_id is not None


def undos(saga: Saga) -> tuple[Step, ...]:
    """Return the steps that must be undone to close this saga's order."""
    coupon = saga.order.coupon_id is not None
    return tuple(step for step in UNDONE[saga.kind] if coupon or step.participant is not Participant.COUPON)


def learn(saga: Saga, command: Command, outcome: Outcome) -> Saga:
    """Return the saga after the outcome of one of its commands."""
    if saga.status is Status.COMPENSATING:
        return replace(saga, undone=saga.undone | {command.type})
    if isinstance(outcome, PartlyRefused):
        # It counts as applied too: otherwise the order would be rejected at once, and keep what the other parts hold.
        saga = replace(saga, applied=saga.applied | {command.type})
    if not outcome.applied:
        return replace(saga, refused=command.type, problem=outcome.body)
    applied = saga.applied | {command.type}
    try:
        return replace(saga, applied=applied, order=_priced(saga, command, outcome.body))
    except AmountTooLarge as refusal:
        return replace(saga, applied=applied, refused="price", problem=refusal.problem())


def apply_transition(order: Order, transition: Transition, now: datetime) -> Order:
    """Return the order after a transition; `now` is the database's time."""
    return replace(
        order,
        status=transition.order_to,
        closing=None if transition.saga_to is Status.COMPENSATED else order.closing,
        reason=_slug(transition.problem) if transition.order_to is OrderStatus.REJECTED else None,
        paid_at=now if transition.order_to is OrderStatus.PAID else order.paid_at,
        event_sequence=order.event_sequence + (transition.event is not None),
    )


def committed(saga: Saga, transition: Transition, order: Order) -> Saga:
    """Return the saga after its transition was committed; `order` is the order as it was written.

    The runner that saw the refusal knows which steps were never reached, so they need no undo. After a take-over, the
    new runner sends all undos.
    """
    undone: frozenset[str] = frozenset()
    if transition.saga_to is Status.COMPENSATING and not is_fenced(saga.problem) and saga.kind is not Kind.PAY:
        reached = {step.undo for step in STEPS[saga.kind] if step.do in saga.applied}
        undone = frozenset(step.undo for step in undos(saga) if step.undo not in reached)
    return replace(saga, status=transition.saga_to, target=transition.target, order=order, undone=undone)


def _slug(problem: Mapping[str, Any] | None) -> str | None:
    return None if problem is None else str(problem["type"]).rpartition("/")[2]


def _priced(saga: Saga, command: Command, result: Mapping[str, Any]) -> Order:
    if command.type == HOLD.do:
        return price(saga.order, result["lines"])
    if command.type in (RESERVE.do, REDEEM.do) and saga.kind is not Kind.PAY:
        return discount(saga.order, result["discount_amount"])
    return saga.order


def _decision(saga: Saga) -> Transition:
    start = _status_while_running(saga)
    if saga.kind is Kind.PAY:
        if saga.refused == DEBIT.do and not is_fenced(saga.problem):
            # Nothing was debited. No undo may be sent, because it would forbid every later payment.
            return Transition(saga.status, Status.DONE, start, OrderStatus.PENDING_PAYMENT, problem=saga.problem)
        return Transition(
            saga.status, Status.COMPENSATING, start, start, target=OrderStatus.CANCELLED, problem=saga.problem
        )
    if not saga.applied and not is_fenced(saga.problem):
        return Transition(saga.status, Status.COMPENSATED, start, OrderStatus.REJECTED, problem=saga.problem)
    return Transition(saga.status, Status.COMPENSATING, start, start, target=OrderStatus.REJECTED, problem=saga.problem)


def _finished(saga: Saga) -> Transition:
    end = OrderStatus.PENDING_PAYMENT if saga.kind is Kind.PLACE_LATER else OrderStatus.PAID
    return Transition(saga.status, Status.DONE, _status_while_running(saga), end, event=EVENTS[end])


def _compensated(saga: Saga) -> Transition:
    target = saga.target
    assert target is not None
    start = saga.order.status if saga.kind is Kind.CLOSE else _status_while_running(saga)
    problem = saga.problem
    if problem is None and target is OrderStatus.REJECTED:  # no step was refused, so an operator forced it
        problem = OrderWithdrawn().problem()
    return Transition(saga.status, Status.COMPENSATED, start, target, target, EVENTS.get(target), problem)


def _status_while_running(saga: Saga) -> OrderStatus:
    return OrderStatus.PAYING if saga.kind is Kind.PAY else OrderStatus.PLACING


def do(step: Step, order: Order, attempt: int, *, reserved: bool) -> Command:
    """Return a step's command. `attempt`: of the payment. `reserved`: whether the coupon was set aside before."""
    fields: dict[str, Any]
    if step is HOLD:
        fields = {"lines": [line.wish() for line in order.lines]}
    elif step is DEBIT:
        fields = {"user_id": order.user_id, "amount": order.total_amount}
    else:
        fields = {"coupon_id": order.coupon_id, "user_id": order.user_id, "subtotal_amount": order.subtotal_amount}
        if step is REDEEM:
            fields["reserved"] = reserved
    return Command(step.participant, step.do, str(order.order_id), attempt if step is DEBIT else 0, fields, order.lines)


def _undo(step: Step, saga: Saga) -> Command:
    return Command(step.participant, step.undo, str(saga.order.order_id), 0, {}, saga.order.lines)
