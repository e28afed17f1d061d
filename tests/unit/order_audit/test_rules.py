"""What the audit expects of an order without a live saga, and its findings."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.order.audit.passes import _is_recent
from services.order.audit.repairs import lacking, repairs
from services.order.audit.rules import (
    HOLDING,
    UNDO,
    Finding,
    Holds,
    Kind,
    compare,
    compare_cell,
    compare_events,
    compare_progress,
    due,
    events_due,
)
from services.order.domain import Line, Order, OrderId, OrderStatus
from services.order.product_shards import shards_of
from services.order.saga import Participant
from shared.ids import uuid7
from shared.slots import ONE_CELL, Ownership, slot_of
from tests.unit.order.samples import LATER, NOW, ORDER_ID, an_order

PRODUCT, COUPON, BALANCE = Participant
UNITS: Holds = {"cup": 2, "pen": 1}
PLACED, PAID = "order.placed.v1", "order.paid.v1"
Found = Mapping[str, Holds]


def paid(**fields: object) -> Order:
    """Return an order that was paid when it was placed, with a coupon."""
    return replace(an_order(OrderStatus.PAID, coupon_id="WELCOME"), paid_at=NOW, event_sequence=1, **fields)  # type: ignore[arg-type]


def findings(order: Order | None, found: Found) -> list[Finding]:
    return list(compare(ORDER_ID, order, found))


def test_a_paid_order_has_its_units_its_coupon_redeemed_and_its_money() -> None:
    assert due(paid()) == {PRODUCT: UNITS, COUPON: {"WELCOME": "REDEEMED"}, BALANCE: {"ann": 2300}}


def test_an_unpaid_order_has_its_units_and_its_coupon_reserved() -> None:
    order = an_order(OrderStatus.PENDING_PAYMENT, coupon_id="WELCOME")
    assert due(order) == {PRODUCT: UNITS, COUPON: {"WELCOME": "RESERVED"}, BALANCE: {}}


def test_an_order_without_a_coupon_or_a_price_is_due_none() -> None:
    assert due(paid(coupon_id=None, total_amount=0)) == {PRODUCT: UNITS, COUPON: {}, BALANCE: {}}


@pytest.mark.parametrize("status", [status for status in OrderStatus if status not in HOLDING])
def test_ended_or_unplaced_order_is_due_no_holds(status: OrderStatus) -> None:
    assert not any(due(an_order(status, coupon_id="WELCOME")).values())


def test_matching_books_give_no_finding() -> None:
    assert findings(paid(), due(paid())) == []
    assert findings(an_order(OrderStatus.CANCELLED), {}) == []


@pytest.mark.parametrize(
    ("participant", "held", "worth"),
    [(PRODUCT, {"cup": 2, "pen": 1}, 3), (COUPON, {"WELCOME": "REDEEMED"}, 1), (BALANCE, {"ann": 2300}, 2300)],
)
@pytest.mark.parametrize("order", [None, an_order(OrderStatus.EXPIRED), an_order(OrderStatus.REJECTED)])
def test_hold_without_an_order_is_an_orphan_with_its_worth(
    order: Order | None, participant: Participant, held: Holds, worth: int
) -> None:
    (finding,) = findings(order, {participant: held})
    assert (finding.kind, finding.participant, finding.worth) == (Kind.ORPHAN, participant, worth)
    assert (finding.due, finding.found, finding.order_id) == ({}, held, ORDER_ID)


@pytest.mark.parametrize(("participant", "worth"), [(PRODUCT, 3), (COUPON, 1), (BALANCE, 2300)])
def test_absent_hold_is_missing_with_its_worth(participant: Participant, worth: int) -> None:
    (finding,) = findings(paid(), {**due(paid()), participant: {}})
    assert (finding.kind, finding.participant, finding.worth) == (Kind.MISSING, participant, worth)


@pytest.mark.parametrize(
    ("participant", "held", "worth"),
    [
        (PRODUCT, {"cup": 2, "pen": 2}, 1),
        (PRODUCT, {"cup": 2}, 1),
        (PRODUCT, {"cup": 2, "mug": 1}, 2),
        (COUPON, {"WELCOME": "RESERVED"}, 1),
        (COUPON, {"OTHER": "REDEEMED"}, 2),
        (BALANCE, {"ann": 2299}, 1),
        (BALANCE, {"bob": 2300}, 4600),
    ],
)
def test_wrong_hold_is_different_and_worth_the_difference(participant: Participant, held: Holds, worth: int) -> None:
    (finding,) = findings(paid(), {**due(paid()), participant: held})
    assert (finding.kind, finding.worth) == (Kind.DIFFERENT, worth)


@pytest.mark.parametrize(
    ("order", "events"),
    [
        (paid(), [PAID]),
        (paid(expires_at=LATER), [PLACED, PAID]),
        (an_order(OrderStatus.PENDING_PAYMENT, expires_at=LATER), [PLACED]),
        (an_order(OrderStatus.EXPIRED, expires_at=LATER), [PLACED, "order.expired.v1"]),
        (an_order(OrderStatus.CANCELLED, expires_at=LATER), [PLACED, "order.cancelled.v1"]),
        (an_order(OrderStatus.REFUNDED), [PAID, "order.refunded.v1"]),
        (an_order(OrderStatus.REFUNDED, expires_at=LATER), [PLACED, PAID, "order.refunded.v1"]),
        (an_order(OrderStatus.REJECTED, expires_at=LATER), []),
    ],
)
def test_each_history_has_its_events(order: Order, events: list[str]) -> None:
    assert events_due(order) == events
    numbered = [f"{n} {event}" for n, event in enumerate(events, 1)]
    order = replace(order, event_sequence=len(events))
    assert list(compare_events(order, numbered)) == []
    for wrong in (numbered[1:], numbered[:-1], [*numbered, "9 order.paid.v1"], [f"2{event}" for event in numbered]):
        if wrong != numbered:
            (finding,) = compare_events(order, wrong)
            assert (finding.kind, finding.due, finding.found) == (Kind.EVENTS, numbered, wrong)
    assert len(list(compare_events(replace(order, event_sequence=len(events) + 1), numbered))) == 1


def test_events_of_dropped_partitions_may_be_missing_but_not_wrong() -> None:
    order = replace(an_order(OrderStatus.REFUNDED, expires_at=LATER), event_sequence=3)
    history = [f"1 {PLACED}", f"2 {PAID}", "3 order.refunded.v1"]
    for stored in ([], history[2:], history[1:], history, [history[0], history[2]]):
        assert list(compare_events(order, stored, forgotten=True)) == []
    for wrong in ([f"1 {PAID}"], [*history, "4 order.paid.v1"], [history[2], history[1]], [history[2], history[2]]):
        (finding,) = compare_events(order, wrong, forgotten=True)
        assert (finding.kind, finding.due, finding.found) == (Kind.EVENTS, history, wrong)
    assert len(list(compare_events(replace(order, event_sequence=2), history, forgotten=True))) == 1


def test_order_from_another_cell_has_its_later_events_here() -> None:
    order = replace(an_order(OrderStatus.REFUNDED, expires_at=LATER), event_sequence=3)
    history = [f"1 {PLACED}", f"2 {PAID}", "3 order.refunded.v1"]
    for arrived_with, stored in ((2, history[2:]), (2, [history[0], history[2]]), (3, []), (0, history)):
        assert list(compare_events(order, stored, arrived_with=arrived_with)) == []
    for arrived_with, wrong in ((2, []), (1, history[2:]), (2, [f"1 {PAID}", history[2]]), (3, ["4 order.paid.v1"])):
        (finding,) = compare_events(order, wrong, arrived_with=arrived_with)
        assert (finding.kind, finding.due, finding.found) == (Kind.EVENTS, history, wrong)


@pytest.mark.parametrize("status", OrderStatus)
def test_order_that_needs_a_saga_is_stranded_without_one(status: OrderStatus) -> None:
    passing = status in (OrderStatus.PLACING, OrderStatus.PAYING)
    kinds = [finding.kind for finding in compare_progress(an_order(status))]
    assert kinds == ([Kind.STRANDED] if passing else [])
    (closing,) = compare_progress(an_order(status, closing=OrderStatus.CANCELLED))
    assert (closing.kind, closing.found) == (Kind.STRANDED, f"{status} closing")


SINCE = datetime(2026, 4, 1, tzinfo=UTC)
ANNS = slot_of("ann")
CELL = Ownership.of([str(ANNS), str(ANNS + 1)], SINCE)
OLDER_CELL = replace(CELL, older=True)


@pytest.mark.parametrize(
    ("ownership", "slot", "made_at", "misplaced"),
    [
        (CELL, ANNS, NOW, False),
        (CELL, ANNS + 1, NOW, True),
        (CELL, ANNS + 2, NOW, True),
        (CELL, ANNS, SINCE - timedelta(milliseconds=1), True),
        (OLDER_CELL, ANNS + 2, SINCE - timedelta(milliseconds=1), False),
        (OLDER_CELL, ANNS + 2, SINCE, True),
    ],
    ids=[
        *("the user's slot", "another slot of this cell", "a slot of another cell", "older, and of another cell"),
        *("older, and of this cell", "as old as slots"),
    ],
)
def test_order_is_misplaced_by_its_slot(ownership: Ownership, slot: int, made_at: datetime, misplaced: bool) -> None:
    order = replace(paid(), order_id=OrderId(uuid7(made_at, slot)))
    found = list(compare_cell(order, ownership))
    assert [(finding.kind, finding.due, finding.found) for finding in found] == (
        [(Kind.MISPLACED, ANNS, slot)] if misplaced else []
    )
    assert repairs(found) == []


def test_without_a_time_no_order_is_misplaced() -> None:
    order = replace(paid(), order_id=OrderId(uuid7(NOW, ANNS + 1)))
    assert list(compare_cell(order, ONE_CELL)) == []


def test_only_orphans_are_repaired_each_by_the_undo_of_its_participant() -> None:
    found = [finding for participant in Participant for finding in findings(None, {participant: {"x": 1}})]
    found += findings(paid(), {})
    found.append(Finding(Kind.BOOKS, "product", None, "stock", [], 1))
    commands = repairs(found)
    assert [(command.participant, command.type) for command in commands] == list(UNDO.items())
    assert {command.order_id for command in commands} == {str(ORDER_ID)}


def test_id_made_within_the_grace_period_is_left_for_the_next_pass() -> None:
    now = datetime(2026, 1, 5, 12, tzinfo=UTC)  # the database's time, not this host's
    assert _is_recent(uuid7(now - timedelta(seconds=4)), now, 5)
    assert _is_recent(uuid7(now + timedelta(seconds=4)), now, 5), "made after the page was read"
    assert not _is_recent(uuid7(now - timedelta(seconds=5)), now, 5)
    assert not _is_recent(uuid7(now + timedelta(hours=1)), now, 5), "an id from the future is nobody's that we made"
    assert not _is_recent(UUID("f81d4fae-7dec-41d0-8765-00a0c91e6bf6"), now, 1e12), "nor is one of another kind"


@pytest.mark.parametrize(
    ("order", "found", "commands"),
    [
        (paid(payment_attempt=2), {}, {("hold_stock", 0), ("redeem_coupon", 0), ("debit", 2)}),
        (paid(), {PRODUCT: UNITS, BALANCE: {"ann": 2300}}, {("redeem_coupon", 0)}),
        (paid(), {PRODUCT: UNITS, COUPON: {"WELCOME": "RESERVED"}, BALANCE: {"ann": 2300}}, {("redeem_coupon", 0)}),
        (an_order(OrderStatus.PENDING_PAYMENT, coupon_id="WELCOME"), {}, {("hold_stock", 0), ("reserve_coupon", 0)}),
    ],
    ids=["forgot the order", "forgot the coupon", "forgot the payment", "forgot an unpaid order"],
)
def test_restored_participants_get_the_commands_that_they_have_forgotten(
    order: Order, found: Found, commands: set[tuple[str, int]]
) -> None:
    sent = [lacking(order, finding) for finding in findings(order, found)]
    assert {(command.type, command.attempt) for command in sent if command} == commands
    reserved = {command.fields["reserved"] for command in sent if command and command.type == "redeem_coupon"}
    assert reserved <= {COUPON in found}


@pytest.mark.parametrize(
    "found",
    [
        {PRODUCT: {"cup": 2}, COUPON: {"WELCOME": "REDEEMED"}, BALANCE: {"ann": 2300}},
        {PRODUCT: UNITS, COUPON: {"OTHER": "REDEEMED"}, BALANCE: {"ann": 2300}},
        {PRODUCT: UNITS, COUPON: {"WELCOME": "REDEEMED"}, BALANCE: {"ann": 9}},
    ],
    ids=["other units", "another coupon", "another amount"],
)
def test_difference_that_no_restore_explains_is_left_to_an_operator(found: Found) -> None:
    (finding,) = findings(paid(), found)
    assert (finding.kind, lacking(paid(), finding)) == (Kind.DIFFERENT, None)


def test_unpaid_order_whose_coupon_is_used_up_is_left_to_an_operator() -> None:
    order = an_order(OrderStatus.PENDING_PAYMENT, coupon_id="WELCOME")
    (finding,) = findings(order, {PRODUCT: UNITS, COUPON: {"WELCOME": "REDEEMED"}})
    assert lacking(order, finding) is None


# Product shards ---------------------------------------------------------------------------------------------------

TWO = shards_of([((), "http://a"), ((), "http://b")])[0]
# Of two shards, the first has pens and the second mugs.
SPREAD = an_order(OrderStatus.PENDING_PAYMENT, lines=(Line("mug", 2), Line("pen", 1)))
RIGHT: Found = {"product-0": {"pen": 1}, "product-1": {"mug": 2}}


def spread(order: Order | None, found: Found) -> list[Finding]:
    return list(compare(ORDER_ID, order, found, TWO))


def test_each_product_shard_must_hold_the_units_of_its_products() -> None:
    assert due(SPREAD, TWO) == {**RIGHT, COUPON: {}, BALANCE: {}}
    assert spread(SPREAD, RIGHT) == []


def test_orphan_at_a_product_shard_is_repaired_there_and_nowhere_else() -> None:
    (finding,) = spread(replace(SPREAD, status=OrderStatus.EXPIRED), {"product-1": {"mug": 2}})
    assert (finding.kind, finding.participant, finding.worth) == (Kind.ORPHAN, "product-1", 2)
    (command,) = repairs([finding])
    assert (command.participant, command.type) == ("product-1", "restore_stock")


def test_restored_product_shard_gets_its_lines_again_and_no_others() -> None:
    (finding,) = spread(SPREAD, {"product-0": {"pen": 1}})
    assert (finding.kind, finding.participant) == (Kind.MISSING, "product-1")
    command = lacking(SPREAD, finding)
    assert command is not None
    assert (command.participant, command.type, command.fields) == (
        "product-1",
        "hold_stock",
        {"lines": [{"product_id": "mug", "quantity": 2}]},
    )


def test_hold_of_a_live_order_at_the_wrong_shard_is_no_orphan() -> None:
    """If the setting of the shards is wrong, all holds are at the wrong shard, and a repair would release them."""
    order = replace(SPREAD, lines=(Line("mug", 2),))
    found = spread(order, {"product-0": {"mug": 2}})
    assert [(finding.kind, finding.participant) for finding in found] == [
        (Kind.DIFFERENT, "product-0"),
        (Kind.MISSING, "product-1"),
    ]
    assert repairs(found) == []


def test_same_units_held_at_two_shards_are_found_although_the_right_shard_agrees() -> None:
    (finding,) = spread(SPREAD, {**RIGHT, "product-0": {"pen": 1, "mug": 2}})
    assert (finding.kind, finding.participant, finding.worth) == (Kind.DIFFERENT, "product-0", 2)
