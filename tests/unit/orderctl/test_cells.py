"""The cells of a platform must divide all slots among themselves, or their audits take each other's holds."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.orderctl.cells import disagreements, verdicts
from shared.slots import SLOTS, Ownership, parse_slots
from tests.unit.orderctl.test_verdict import COMMANDS, a_report

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
        *("Run no repair before this is corrected, in CELL_SLOTS of the cells:", "slots 2048-2050: of a and b"),
    ]


@given(st.frozensets(st.integers(0, SLOTS - 1), max_size=20), st.booleans())
def test_words_of_slots_are_read_as_these_slots(slots: frozenset[int], older: bool) -> None:
    words = Ownership(slots, older=older).words
    assert (parse_slots(words), "older" in words) == (slots, older)
    assert len(words) <= len(slots) + older
