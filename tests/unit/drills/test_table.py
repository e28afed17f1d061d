"""The drills' table and verdict: what is lost is found, and the page has a row for each drill."""

from pathlib import Path

import pytest

from tests.drills.__main__ import GROUPS, SHORT_GROUPS
from tests.drills.drill import not_run
from tests.drills.load import Purchase
from tests.drills.table import BEGIN, END, HEADINGS, Row, replaced, table
from tests.drills.verdict import lost

PAGE = Path(__file__).parents[3] / "docs" / "drills.md"
DRILLS = [drill for group in GROUPS for drill in group.drills]
# How the names of each kind begin.
KINDS = ("restart-", "kill-", "postgres-", "kafka-", "restore-", "pgbouncer-", "rotate-", "kafka-leader")


@pytest.mark.parametrize(
    ("purchase", "status", "is_lost"),
    [
        (Purchase("a", "PAID"), "PAID", False),
        (Purchase("a", "PAID"), "REJECTED", True),
        (Purchase("a", "PAID"), None, True),
        (Purchase("a", "PLACING"), "REJECTED", False),
        (Purchase("a", "PLACING"), None, True),
        (Purchase(), None, False),
    ],
    ids=["paid", "paid-and-rejected", "paid-and-gone", "accepted-and-refused", "accepted-and-gone", "unanswered"],
)
def test_order_is_lost_if_a_customer_was_told_more_than_there_is(
    purchase: Purchase, status: str | None, is_lost: bool
) -> None:
    assert lost([purchase], {} if status is None else {"a": status}) == (["a"] if is_lost else [])


def test_row_of_a_drill_that_failed_says_what_it_does_not_allow() -> None:
    row = Row("kill-relay", "SIGKILL | again", 12.34, 1000, 2, 1, "clean", ("1 orders are lost", "2 failed"))
    assert table([row]).splitlines()[-1] == (
        "| `kill-relay` | SIGKILL \\| again | 12.3 | 1,000 | 2 | 1 | clean | FAILED: 1 orders are lost; 2 failed |"
    )


def test_row_shows_what_a_drill_measures_beside_the_usual() -> None:
    assert Row("cell-dead", "", figures=("52 → 98 orders/s",)).cells[-1] == "passed: 52 → 98 orders/s"
    assert Row("cell-dead", "", wrong=("x",), figures=("1 s",)).cells[-1] == "FAILED: x; 1 s"


def test_row_of_a_drill_that_cannot_run_here_has_the_reason_and_no_figures() -> None:
    row = Row("postgres-full", "full", skipped="only root can mount")
    assert (row.passed, row.cells[2:]) == (False, ("", "", "", "", "", "skipped: only root can mount"))


@pytest.mark.parametrize(("ci", "result"), [("", "skipped: no root"), ("true", "FAILED: no root")])
def test_drill_that_cannot_run_here_fails_only_in_ci(ci: str, result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    row = not_run(DRILLS[0], "no root")
    assert (row.result, bool(row.wrong)) == (result, bool(ci))


def test_table_replaces_what_is_between_the_marks_of_the_page() -> None:
    page = f"before\n{BEGIN}\n\nold\n\n{END}\nafter\n"
    assert replaced(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="the page has no"):
        replaced("without marks", "new")


def test_every_drill_has_a_name_of_its_own_and_a_row_on_the_page() -> None:
    names = [drill.name for drill in DRILLS]
    assert len(names) == len(set(names))
    page = PAGE.read_text()
    assert [name for name in names if f"| `{name}` |" not in page] == []
    assert f"| {' | '.join(HEADINGS)} |" in page


@pytest.mark.parametrize("kind", KINDS)
def test_short_form_has_a_drill_of_each_kind(kind: str) -> None:
    assert any(drill.name.startswith(kind) for group in SHORT_GROUPS for drill in group.drills)


def test_short_form_has_every_drill_that_stands_for_its_kind() -> None:
    chosen = [drill for group in SHORT_GROUPS for drill in group.drills]
    assert {drill.name for drill in chosen} == {drill.name for drill in DRILLS if drill.in_short}


def test_every_drill_is_of_a_kind() -> None:
    assert [drill.name for drill in DRILLS if not drill.name.startswith(KINDS)] == []
