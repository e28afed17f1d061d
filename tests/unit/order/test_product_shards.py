"""Product shards: which product is where, how a command is split, and which outcome follows from those of its parts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.order.domain import Line, OrderStatus
from services.order.engine.participants import Participants
from services.order.engine.sharding import participants_of
from services.order.product_shards import ONE_PRODUCT_SERVICE, ProductShards, merge, participant_at, shards_of
from services.order.saga import HOLD, Command, Kind, Participant, PartlyRefused, Send, Status, do, next_move
from shared.participant.protocol import FENCED, Outcome
from shared.slots import SLOTS
from tests.unit.order.samples import INVALID_COUPON, a_saga, an_order, run

URLS = ("http://a", "http://b", "http://c")
TWO, THREE = (shards_of([((), url) for url in URLS[:count]])[0] for count in (2, 3))
# By CRC-32 in slots 767, 1860, 2089 and 3145: fixed for ever, because holds that exist are where they were made.
LINES = (Line("mug", 1), Line("pen", 2), Line("ink", 3), Line("hat", 4))
ORDER = an_order(lines=LINES)
HOLDING = do(HOLD, ORDER, 0, reserved=False)
UNDOING = Command(Participant.PRODUCT, HOLD.undo, str(ORDER.order_id), 0, {}, LINES)


def problem(slug: str, *products: str) -> Outcome:
    body: dict[str, Any] = {"type": f"/problems/{slug}", "status": 400, "detail": f"No {', '.join(products)}."}
    return Outcome(False, {**body, "product_ids": list(products)})


def answer(part: Command) -> Outcome:
    """Return what a shard answers that has all products of a part."""
    lines = [{**line, "name": line["product_id"].upper(), "unit_price": 5} for line in part.fields["lines"]]
    return Outcome(True, {"lines": lines})


def products(parts: Sequence[Command]) -> dict[str, list[str]]:
    return {part.participant: [line["product_id"] for line in part.fields["lines"]] for part in parts}


def test_products_are_where_they_were_when_the_first_order_was_placed() -> None:
    where = [TWO.place_of(line.product_id) for line in LINES]
    assert where == ["product-1", "product-0", "product-0", "product-1"]
    where = [THREE.place_of(line.product_id) for line in LINES]
    assert where == ["product-1", "product-0", "product-1", "product-2"]
    assert TWO.place_of("키보드") == "product-1"  # slot 3703: of the id in UTF-8


def test_hold_is_split_by_product_and_each_part_has_its_lines_in_their_order() -> None:
    parts = THREE.split(HOLDING)
    assert products(parts) == {"product-1": ["mug", "ink"], "product-0": ["pen"], "product-2": ["hat"]}
    assert [line for part in parts for line in part.fields["lines"] if line["product_id"] == "hat"] == [
        {"product_id": "hat", "quantity": 4}
    ]


def test_undo_goes_to_the_parts_of_the_hold_and_names_the_products_of_each() -> None:
    held, undone = TWO.split(HOLDING), TWO.split(UNDOING)
    assert [part.participant for part in undone] == [part.participant for part in held]
    assert {part.wire()["type"] for part in undone} == {"restore_stock"}
    assert {part.participant: part.fields["product_ids"] for part in undone} == products(held)


def test_command_without_lines_is_not_taken_for_done() -> None:
    with pytest.raises(AssertionError):
        TWO.split(replace(UNDOING, lines=()))


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20, unique=True), st.integers(1, 9))
def test_prices_of_all_parts_come_back_in_the_order_of_the_lines(names: list[str], count: int) -> None:
    shards = shards_of([((), f"http://{number}") for number in range(count)])[0]
    lines = tuple(Line(name, 1 + number) for number, name in enumerate(names))
    command = do(HOLD, replace(ORDER, lines=lines), 0, reserved=False)
    parts = shards.split(command)
    assert len({part.participant for part in parts}) == len(parts)
    outcome = merge(command, [answer(part) for part in parts])
    assert outcome == answer(command)


def test_one_product_service_has_every_product_under_the_name_of_the_participant() -> None:
    assert ONE_PRODUCT_SERVICE.places == (Participant.PRODUCT,)
    (part,) = ONE_PRODUCT_SERVICE.split(HOLDING)
    assert part == HOLDING


def test_one_product_service_has_the_participants_that_it_always_had() -> None:
    assert participants_of(ONE_PRODUCT_SERVICE) is Participants
    assert participants_of(TWO) is not Participants


# The outcome of a whole -------------------------------------------------------------------------------------------


def test_refusal_of_every_part_is_a_plain_refusal() -> None:
    outcome = merge(HOLDING, [problem("out-of-stock", "pen"), problem("out-of-stock", "mug")])
    assert type(outcome) is Outcome
    assert not outcome.applied


def test_refusal_of_some_parts_says_that_others_may_hold_stock() -> None:
    outcome = merge(HOLDING, [answer(HOLDING), problem("out-of-stock", "mug")])
    assert isinstance(outcome, PartlyRefused)
    assert not outcome.applied
    assert outcome.body["product_ids"] == ["mug"]


def test_problem_of_several_parts_names_their_products_in_the_order_of_the_lines() -> None:
    outcome = merge(HOLDING, [problem("out-of-stock", "ink", "pen"), problem("out-of-stock", "mug")])
    assert outcome.body == {
        "type": "/problems/out-of-stock",
        "status": 400,
        "detail": "No ink, pen. The same holds for 1 more.",
        "product_ids": ["mug", "pen", "ink"],
    }


def test_unknown_product_comes_before_too_few_units() -> None:
    outcomes = [problem("out-of-stock", "pen"), problem("product-not-found", "mug")]
    assert merge(HOLDING, outcomes).body == outcomes[1].body


def test_fenced_part_comes_before_every_other_refusal() -> None:
    """It may have been applied and forgotten since, so all undos are needed, even without an applied part."""
    outcome = merge(HOLDING, [problem("product-not-found", "mug"), FENCED])
    assert outcome.body == FENCED.body
    done = run(a_saga(Kind.PLACE_NOW), {"hold_stock": outcome})
    assert done.sent[1:] == [["refund", "release_coupon", "restore_stock"]]


def test_undo_is_applied_when_every_part_is() -> None:
    assert merge(UNDOING, [Outcome(True, {}), Outcome(True, {})]) == Outcome(True, {})
    assert not merge(UNDOING, [Outcome(True, {}), Outcome(False, {"type": "/problems/strange"})]).applied


# The saga ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.PLACE_NOW, Kind.PLACE_LATER])
def test_partly_refused_hold_is_undone_and_then_the_order_is_rejected(kind: Kind) -> None:
    partly = merge(HOLDING, [answer(HOLDING), problem("out-of-stock", "mug")])
    done = run(a_saga(kind), {"hold_stock": partly})
    assert done.sent == [["hold_stock"], ["restore_stock"]]
    assert [step.saga_to for step in done.transitions] == [Status.COMPENSATING, Status.COMPENSATED]
    assert done.end.order_to is OrderStatus.REJECTED
    assert done.end.problem == partly.body


def test_refused_hold_that_no_part_applied_is_rejected_in_one_commit() -> None:
    whole = merge(HOLDING, [problem("out-of-stock", "pen"), problem("out-of-stock", "mug")])
    done = run(a_saga(Kind.PLACE_NOW), {"hold_stock": whole})
    assert done.sent == [["hold_stock"]]
    assert [step.saga_to for step in done.transitions] == [Status.COMPENSATED]


def test_undo_of_a_saga_names_the_lines_by_which_its_shards_are_found() -> None:
    saga = a_saga(Kind.CLOSE)
    move = next_move(saga)
    assert isinstance(move, Send)
    undo = next(command for command in move.commands if command.type == HOLD.undo)
    assert [line.product_id for line in undo.lines] == ["cup", "pen"]
    assert run(saga, {"reserve_coupon": INVALID_COUPON}).end.order_to is OrderStatus.CANCELLED


# Addresses --------------------------------------------------------------------------------------------------------


def test_addresses_without_slots_get_equal_shares_in_their_order() -> None:
    shards, urls = shards_of([((), url) for url in URLS])
    assert urls == {"product-0": "http://a", "product-1": "http://b", "product-2": "http://c"}
    assert shards.places == ("product-0", "product-1", "product-2")


@pytest.mark.parametrize(
    ("addresses", "why"),
    [
        ([(range(2048), "http://a"), (range(2047, SLOTS), "http://b")], "slot 2047 has two owners"),
        ([(range(2048), "http://a"), (range(2049, SLOTS), "http://b")], "slot 2048 has no owner"),
        ([(range(SLOTS), "http://a"), ((), "http://b")], "either each address has slots, or none has"),
        ([((), "http://a"), ((), "http://a")], "an address is named twice"),
    ],
)
def test_addresses_that_leave_a_slot_in_doubt_are_refused(addresses: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        shards_of(addresses)


def test_place_names_its_participant() -> None:
    assert [participant_at(place) for place in THREE.all_places] == [
        *[Participant.PRODUCT] * 3,
        Participant.COUPON,
        Participant.BALANCE,
    ]


def test_twice_as_many_shards_split_each_range_and_move_nothing_else() -> None:
    two = ProductShards([f"product-{slot * 2 // SLOTS}" for slot in range(SLOTS)])
    four = shards_of([((), f"http://{number}") for number in range(4)])[0]
    for number in range(500):
        name = str(UUID(int=number))
        assert int(four.place_of(name)[-1]) // 2 == int(two.place_of(name)[-1])
