"""The commands and commits of a saga: every kind, every refusal, forced and taken over."""

from dataclasses import replace

import pytest

from services.order.domain import AMOUNT_MAX, Line, OrderStatus
from services.order.saga import STEPS, Kind, Send, Status, Transition, committed, learn, next_move
from shared.participant.protocol import Outcome
from tests.unit.order.samples import (
    FENCED,
    INVALID_COUPON,
    NO_MONEY,
    OUT_OF_STOCK,
    REFUSALS,
    a_saga,
    an_order,
    applied,
    run,
)

S = OrderStatus
ALL_UNDOS = ["refund", "release_coupon", "restore_stock"]


@pytest.mark.parametrize(
    ("kind", "sent", "end", "event"),
    [
        (Kind.PLACE_NOW, [["hold_stock"], ["redeem_coupon"], ["debit"]], S.PAID, "order.paid.v1"),
        (Kind.PLACE_LATER, [["hold_stock"], ["reserve_coupon"]], S.PENDING_PAYMENT, "order.placed.v1"),
        (Kind.PAY, [["debit"], ["redeem_coupon"]], S.PAID, "order.paid.v1"),
    ],
)
def test_saga_without_refusal_takes_its_steps_in_order_and_commits_once(
    kind: Kind, sent: list[list[str]], end: OrderStatus, event: str
) -> None:
    done = run(a_saga(kind))
    assert done.sent == sent
    assert [(move.saga_to, move.order_to, move.event) for move in done.transitions] == [(Status.DONE, end, event)]


def test_the_amount_is_debited_after_the_discount() -> None:
    done = run(a_saga(Kind.PLACE_NOW), discount_amount=300)
    debit = done.commands[-1]
    assert (debit.type, debit.attempt, debit.fields) == ("debit", 1, {"user_id": "ann", "amount": 2000})


def test_a_coupon_is_asked_with_the_subtotal() -> None:
    redeem = run(a_saga(Kind.PLACE_NOW)).commands[1]
    assert redeem.fields == {"coupon_id": "WELCOME", "user_id": "ann", "subtotal_amount": 2300, "reserved": False}


def test_payment_redeems_the_reserved_coupon_and_keeps_its_discount() -> None:
    saga = a_saga(Kind.PAY, attempt=3)
    saga = replace(saga, order=replace(saga.order, discount_amount=300, total_amount=2000))
    done = run(saga, discount_amount=999)
    assert [(command.type, command.attempt) for command in done.commands] == [("debit", 3), ("redeem_coupon", 0)]
    assert done.commands[0].fields["amount"] == 2000
    assert done.commands[1].fields["reserved"] is True
    assert done.saga.order.discount_amount == 300


@pytest.mark.parametrize("kind", [Kind.PLACE_NOW, Kind.PLACE_LATER, Kind.PAY])
def test_an_order_without_a_coupon_never_calls_the_coupon_service(kind: Kind) -> None:
    saga = a_saga(kind, coupon=False)
    assert not [command for command in run(saga).commands if "coupon" in command.type]
    forced = replace(saga, status=Status.COMPENSATING, target=S.REJECTED)
    assert not [command for command in run(forced).commands if "coupon" in command.type]


@pytest.mark.parametrize("kind", [Kind.PLACE_NOW, Kind.PAY])
def test_an_order_of_total_0_is_paid_without_a_debit(kind: Kind) -> None:
    done = run(a_saga(kind, coupon=False, free=True))
    assert "debit" not in [command.type for command in done.commands]
    assert done.end.order_to is S.PAID


def test_a_full_discount_leaves_nothing_to_debit() -> None:
    assert run(a_saga(Kind.PLACE_NOW), discount_amount=2300).sent == [["hold_stock"], ["redeem_coupon"]]


@pytest.mark.parametrize("kind", [Kind.PLACE_NOW, Kind.PLACE_LATER])
def test_a_refusal_at_the_first_step_rejects_in_one_commit(kind: Kind) -> None:
    done = run(a_saga(kind), {"hold_stock": OUT_OF_STOCK})
    assert done.sent == [["hold_stock"]]
    assert [(move.saga_to, move.order_to, move.event) for move in done.transitions] == [
        (Status.COMPENSATED, S.REJECTED, None)
    ]
    assert done.end.problem == OUT_OF_STOCK.body


@pytest.mark.parametrize(
    ("kind", "refused", "undone"),
    [
        (Kind.PLACE_NOW, "redeem_coupon", ["restore_stock"]),
        (Kind.PLACE_NOW, "debit", ["release_coupon", "restore_stock"]),
        (Kind.PLACE_LATER, "reserve_coupon", ["restore_stock"]),
    ],
)
def test_later_refusal_undoes_only_the_applied_steps(kind: Kind, refused: str, undone: list[str]) -> None:
    done = run(a_saga(kind), {refused: REFUSALS[refused]})
    assert done.sent[-1] == undone
    assert [(move.saga_to, move.order_to) for move in done.transitions] == [
        (Status.COMPENSATING, S.PLACING),
        (Status.COMPENSATED, S.REJECTED),
    ]
    assert [move.problem for move in done.transitions] == [REFUSALS[refused].body] * 2


def test_compensating_is_committed_before_the_first_undo() -> None:
    saga = a_saga(Kind.PLACE_LATER)
    move = next_move(saga)
    assert isinstance(move, Send)
    saga = learn(saga, move.commands[0], applied(move.commands[0]))
    move = next_move(saga)
    assert isinstance(move, Send)
    saga = learn(saga, move.commands[0], INVALID_COUPON)
    move = next_move(saga)
    assert isinstance(move, Transition)
    assert move.saga_to is Status.COMPENSATING


def test_a_price_that_no_account_can_hold_rejects_and_restores() -> None:
    saga = a_saga(Kind.PLACE_NOW)
    saga = replace(saga, order=replace(saga.order, lines=(Line("moon", 1000),)))
    moon = {"lines": [{"product_id": "moon", "name": "Moon", "unit_price": AMOUNT_MAX}]}
    done = run(saga, {"hold_stock": Outcome(True, moon)})
    assert done.sent == [["hold_stock"], ["restore_stock"]]
    assert done.end.order_to is S.REJECTED
    assert done.end.problem is not None
    assert done.end.problem["type"] == "/problems/amount-too-large"


def test_a_refused_debit_leaves_the_order_payable_and_sends_no_undo() -> None:
    done = run(a_saga(Kind.PAY), {"debit": NO_MONEY})
    assert done.sent == [["debit"]]
    assert done.transitions == [
        Transition(Status.RUNNING, Status.DONE, S.PAYING, S.PENDING_PAYMENT, problem=NO_MONEY.body)
    ]


@pytest.mark.parametrize("refused", ["debit", "redeem_coupon"])
def test_fenced_payment_cancels_the_whole_order(refused: str) -> None:
    done = run(a_saga(Kind.PAY), {refused: FENCED})
    assert done.sent[-1] == ALL_UNDOS
    assert [(move.order_to, move.event) for move in done.transitions] == [
        (S.PAYING, None),
        (S.CANCELLED, "order.cancelled.v1"),
    ]


def test_a_payment_whose_coupon_is_refused_gives_the_money_back() -> None:
    done = run(a_saga(Kind.PAY), {"redeem_coupon": INVALID_COUPON})
    assert done.sent == [["debit"], ["redeem_coupon"], ALL_UNDOS]
    assert done.end.order_to is S.CANCELLED


@pytest.mark.parametrize(
    ("kind", "step"), [(kind, step.do) for kind in (Kind.PLACE_NOW, Kind.PLACE_LATER) for step in STEPS[kind]]
)
def test_fenced_placement_undoes_everything(kind: Kind, step: str) -> None:
    done = run(a_saga(kind), {step: FENCED})
    undos = ALL_UNDOS if kind is Kind.PLACE_NOW else ["release_coupon", "restore_stock"]
    assert done.sent[-1] == undos
    assert (done.end.saga_to, done.end.order_to) == (Status.COMPENSATED, S.REJECTED)


@pytest.mark.parametrize(
    ("kind", "order_from", "target", "undos"),
    [
        (Kind.PLACE_NOW, S.PLACING, S.REJECTED, ALL_UNDOS),
        (Kind.PLACE_LATER, S.PLACING, S.REJECTED, ["release_coupon", "restore_stock"]),
        (Kind.PAY, S.PAYING, S.CANCELLED, ALL_UNDOS),
        (Kind.CLOSE, S.PENDING_PAYMENT, S.CANCELLED, ALL_UNDOS),
    ],
)
def test_taken_over_compensating_saga_sends_all_undos(
    kind: Kind, order_from: OrderStatus, target: OrderStatus, undos: list[str]
) -> None:
    done = run(a_saga(kind, status=Status.COMPENSATING, target=target))
    assert done.sent == [undos]
    assert [(move.saga_from, move.saga_to, move.order_from, move.order_to) for move in done.transitions] == [
        (Status.COMPENSATING, Status.COMPENSATED, order_from, target)
    ]


@pytest.mark.parametrize(
    ("order", "target", "event"),
    [
        (S.PENDING_PAYMENT, S.EXPIRED, "order.expired.v1"),
        (S.PENDING_PAYMENT, S.CANCELLED, "order.cancelled.v1"),
        (S.PAID, S.REFUNDED, "order.refunded.v1"),
    ],
)
def test_closing_saga_undoes_everything_and_then_writes_its_event(
    order: OrderStatus, target: OrderStatus, event: str
) -> None:
    saga = a_saga(Kind.CLOSE, target=target, order=an_order(order, coupon_id="WELCOME", closing=target))
    done = run(saga)
    assert done.sent == [ALL_UNDOS]
    assert [(move.order_from, move.order_to, move.event) for move in done.transitions] == [(order, target, event)]


@pytest.mark.parametrize("kind", [Kind.PLACE_NOW, Kind.PLACE_LATER])
def test_placement_forced_by_an_operator_is_rejected_with_a_reason(kind: Kind) -> None:
    done = run(a_saga(kind, status=Status.COMPENSATING, target=S.REJECTED))
    assert done.end.problem is not None
    assert done.end.problem["type"] == "/problems/order-withdrawn"


def test_only_unacknowledged_undos_are_sent_again() -> None:
    saga = a_saga(Kind.CLOSE)
    move = next_move(saga)
    assert isinstance(move, Send)
    saga = learn(saga, move.commands[1], Outcome(True, {}))
    again = next_move(saga)
    assert isinstance(again, Send)
    assert [command.type for command in again.commands] == ["refund", "restore_stock"]


@pytest.mark.parametrize("kind", [Kind.PLACE_NOW, Kind.PLACE_LATER, Kind.PAY])
def test_taken_over_running_saga_starts_again_from_its_first_step(kind: Kind) -> None:
    saga = a_saga(kind)
    first = next_move(saga)
    assert isinstance(first, Send)
    for _ in STEPS[kind]:  # the stored row is only RUNNING, independently of the previous runner's progress
        resumed = next_move(replace(saga, applied=frozenset(), refused=None))
        assert resumed == first


def test_commit_returns_the_order_as_written() -> None:
    saga = a_saga(Kind.PLACE_LATER)
    done = Transition(Status.RUNNING, Status.DONE, S.PLACING, S.PENDING_PAYMENT, event="order.placed.v1")
    written = an_order(S.PENDING_PAYMENT)
    assert committed(saga, done, written).order is written
    assert committed(saga, done, written).status is Status.DONE
