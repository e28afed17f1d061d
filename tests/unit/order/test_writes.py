"""What a transition writes: a refusal's text once, and names and prices once."""

import json
from dataclasses import replace

from services.order.domain import Line, OrderStatus, price
from services.order.engine.transitions import TransitionRequest, _write_of
from services.order.saga import Kind, Saga, Status, Transition, committed, learn, next_move
from services.order.store import TransitionWrite, read_lines
from shared.participant.protocol import Outcome
from tests.unit.order.samples import NO_MONEY, NOW, OUT_OF_STOCK, a_saga, an_order, held

ENTRY = {"step": "hold_stock", "outcome": "refused", "detail": OUT_OF_STOCK.body["detail"]}


def refused(saga: Saga, outcome: Outcome) -> Saga:
    """Return the saga after its next command is refused."""
    move = next_move(saga)
    assert not isinstance(move, Transition)
    return learn(saga, move.commands[0], outcome)


def write(saga: Saga, *log: dict[str, str]) -> TransitionWrite:
    """Return what the next transition of a saga writes."""
    move = next_move(saga)
    assert isinstance(move, Transition)
    return _write_of(TransitionRequest(saga, move, log), NOW)


def test_stored_lines_with_members_of_a_later_version_are_read() -> None:
    stored = [{"product_id": "p", "quantity": 2, "name": "Tea", "unit_price": 5, "warehouse": "north"}]
    assert read_lines(stored) == (Line("p", 2, "Tea", 5),)


def test_refusal_is_written_as_the_sagas_problem_only() -> None:
    other = {"step": "hold_stock", "outcome": "unknown", "detail": "It did not answer."}
    written = write(refused(a_saga(Kind.PLACE_NOW), OUT_OF_STOCK), other, ENTRY)
    assert written.transition.problem == OUT_OF_STOCK.body
    assert json.loads(written.log) == [other, {"step": "hold_stock", "outcome": "refused"}]
    assert written.answer is not None
    assert written.answer.status == 400
    assert (written.stored_answer, written.view) == (None, b"")


def test_text_of_another_refusal_than_the_sagas_stays_in_the_log() -> None:
    forced = a_saga(Kind.PLACE_NOW, status=Status.COMPENSATING, target=OrderStatus.REJECTED, problem=NO_MONEY.body)
    done = replace(forced, undone=frozenset({"restore_stock", "release_coupon", "refund"}))
    assert json.loads(write(done, ENTRY).log) == [ENTRY]


def test_names_and_prices_are_written_by_the_first_transition_that_knows_them() -> None:
    saga = a_saga(Kind.PLACE_NOW, coupon=False, order=price(an_order(), held()), applied=frozenset({"hold_stock"}))
    first = write(refused(saga, NO_MONEY))
    assert first.priced_lines is not None
    assert [line["name"] for line in json.loads(first.priced_lines)] == ["Cup", "Pen"]
    compensating = committed(refused(saga, NO_MONEY), first.transition, first.order)
    last = write(replace(compensating, undone=frozenset({"restore_stock", "release_coupon", "refund"})))
    assert last.transition.order_to is OrderStatus.REJECTED
    assert last.priced_lines is None
