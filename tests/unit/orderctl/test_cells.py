"""The cells of a platform must divide all slots among themselves, or their audits take each other's holds."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.orderctl.cells import disagreements, together, verdicts
from shared.slots import SLOTS, Ownership, parse_slots
from tests.unit.orderctl.test_verdict import COMMANDS, a_finding, a_report

SINCE = "2026-12-01T00:00:00Z"


def reports(*slots: str, **changed: Any) -> dict[str, Mapping[str, Any]]:
    """Return a report of each cell: a, b and so on."""
    cells = [{"slots": words, "slots_since": SINCE} for words in slots]
    return {name: a_report(cell=cell, **changed) for name, cell in zip("abc", cells, strict=False)}


def test_cells_that_divide_all_slots_agree() -> None:
    assert disagreements(reports("0-2047 older", "2048-4095")) == []
    assert disagreements(reports("0-99 200-4095", "100-199", "older")) == []
    one = {"slots": "0-4095 older", "slots_since": None}
    assert disagreements({"a": a_report(cell=one)}) == []


@pytest.mark.parametrize(
    ("slots", "lines"),
    [
        (("0-2050 older", "2048-4095"), ["slots 2048-2050: of a and b"]),
        (("0-2046 older", "2048-4094"), ["slots 2047 4095: of no cell"]),
        (("0-2047", "2048-4095"), ["orders from before the slots: of no cell"]),
        (("0-2047 older", "2048-4095 older"), ["orders from before the slots: of a and b"]),
        (("0-9 older", "0-4095", "7"), ["slots 0-6 8-9: of a and b", "slots 7: of a and b and c"]),
    ],
)
def test_slots_of_several_cells_or_of_none_are_named(slots: tuple[str, ...], lines: list[str]) -> None:
    assert disagreements(reports(*slots)) == lines


def test_different_times_are_named() -> None:
    found = reports("0-2047 older", "2048-4095")
    found["b"] = a_report(cell={"slots": "2048-4095", "slots_since": None})
    (line,) = disagreements(found)
    assert line == f"the cells have different CELL_SLOTS_SINCE: {SINCE}, None"


def test_order_service_of_an_earlier_version_is_named() -> None:
    (line,) = disagreements({**reports("0-4095 older"), "old": a_report()})
    assert line == "old: this version of the order service knows no cells"


def test_what_is_wrong_is_said_after_the_audits() -> None:
    found = reports("0-2050 older", "2048-4095")
    text = verdicts(found, disagreements(found), COMMANDS, colour=False)
    assert text.splitlines() == [
        *("a", "✓ 8 orders, 0 findings", "", "b", "✓ 8 orders, 0 findings", ""),
        *("together", "✓ 16 orders, 0 findings", ""),
        *("Run no repair before this is corrected, in CELL_SLOTS of the cells:", "slots 2048-2050: of a and b"),
    ]


def test_value_at_risk_is_added_over_cells_and_the_oldest_saga_is_the_oldest_of_all() -> None:
    risk = {"sagas": 1, "units": 3, "coupons": 0, "amount": str(2**64), "oldest_seconds": 2.5}
    more = {"sagas": 2, "units": 4, "coupons": 1, "amount": 1, "oldest_seconds": 0.5}
    found = {"a": a_report(value_at_risk=risk, under_way=1), "b": a_report(value_at_risk=more, under_way=2, recent=5)}
    whole = together(found)
    assert whole["value_at_risk"] == {
        "sagas": 3,
        "units": 7,
        "coupons": 1,
        "amount": 2**64 + 1,
        "oldest_seconds": 2.5,
    }
    assert verdicts(found, [], COMMANDS, colour=False).splitlines()[-5:] == [
        "together",
        "✓ 16 orders, 0 findings",
        "  not compared, because their sagas are under way: 3",
        "  not compared yet, because they are only seconds old: 5",
        "  value at risk: 7 units of stock and 1 coupon and 18,446,744,073,709,551,617 in minor units of money, "
        "in 3 live sagas",
    ]


def test_product_shards_that_cells_share_count_once_and_their_own_participants_each() -> None:
    shared = a_finding("books", "product-1", order_id=None, due="free", found=["mug"], worth=2)
    own = a_finding("books", "balance", order_id=None, due="ledger", found=["alice"], worth=7)
    totals = {"product": {"units": 10}, "balance": {"balances": 5}}
    found = {name: a_report(shared, own, a_finding(), totals=totals) for name in "ab"}
    whole = together(found)
    assert (whole["orders"], whole["violations"], whole["clean"]) == (16, 5, False)
    assert whole["totals"] == {"product": {"units": 10}, "balance": {"balances": 10}}
    text = verdicts(found, [], COMMANDS, colour=False)
    assert "together\n✗ 16 orders, 5 findings, worth 8 units of stock and 14 in minor units of money" in text


@given(st.frozensets(st.integers(0, SLOTS - 1), max_size=20), st.booleans())
def test_words_of_slots_are_read_as_these_slots(slots: frozenset[int], older: bool) -> None:
    words = Ownership(slots, older=older).words
    assert (parse_slots(words), "older" in words) == (slots, older)
    assert len(words) <= len(slots) + older
