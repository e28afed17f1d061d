"""The drills of two cells: every process is killed, and the sales of a living cell are judged by those before."""

import re
from pathlib import Path

import pytest

from shared.slots import slot_of
from tests.drills.cells.faults import DRILLS, LATENCY_MAX, SHORT_DRILLS, TARGETS, THROUGHPUT_MIN, compared
from tests.drills.cells.load import SLOTS, ids_in
from tests.drills.load import Purchase
from tests.drills.table import BEGIN, END, HEADINGS

REPOSITORY = Path(__file__).parents[3]
SECONDS = 10.0


def sales(count: int, seconds: float) -> list[Purchase]:
    """Return purchases that took so long."""
    return [Purchase("a", "PAID", "cell-0", began=1.0, ended=1.0 + seconds) for _ in range(count)]


def test_page_has_a_row_for_each_drill() -> None:
    table = (REPOSITORY / "docs" / "scaling.md").read_text().partition(BEGIN)[2].partition(END)[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.M) == [drill.name for drill in DRILLS]
    assert f"| {' | '.join(HEADINGS)} |" in table


def test_one_of_every_service_behind_the_router_is_killed() -> None:
    backends = re.findall(r"^backend (\S+)", (REPOSITORY / "deploy/cells/haproxy.cfg").read_text(), re.M)
    assert [backend for backend in backends if not any(name.startswith(backend) for name in TARGETS)] == []
    assert {"cell-0-relay", "cell-1-relay", "consumer"} <= set(TARGETS)
    assert {f"kill-{name}" for name in TARGETS} <= {drill.name for drill in DRILLS}


def test_short_form_kills_each_process_and_a_whole_cell() -> None:
    assert [drill.name for drill in SHORT_DRILLS] == ["kill-each", "cell-dead"]


@pytest.mark.parametrize(
    ("count", "seconds", "wrong"),
    [
        (100, 0.1, None),
        (THROUGHPUT_MIN * 100, 0.1 * LATENCY_MAX, None),
        (THROUGHPUT_MIN * 100 - 1, 0.1, "of the orders"),
        (100, 0.1 * LATENCY_MAX + 0.001, "times the latency"),
        (0, 0.1, "0 after"),
    ],
)
def test_living_cell_must_sell_nearly_as_before(count: float, seconds: float, wrong: str | None) -> None:
    figures: list[str] = []
    lines = compared(sales(100, 0.1), sales(int(count), seconds), SECONDS, figures)
    assert len(lines) == (0 if wrong is None else 1)
    assert all(str(wrong) in line for line in lines), lines
    assert bool(figures) is bool(count)


@pytest.mark.parametrize(("count", "wrong"), [(1, []), (0, ["100 orders before, 0 after the other cell has died"])])
def test_living_cell_must_only_sell_in_the_short_form(count: int, wrong: list[str]) -> None:
    figures: list[str] = []
    assert compared(sales(100, 0.1), sales(count, 9.0), SECONDS, figures, in_short=True) == wrong


@pytest.mark.parametrize("slots", SLOTS)
def test_ids_of_the_load_are_in_the_slots_of_their_cell(slots: str) -> None:
    first, last = map(int, slots.split("-"))
    ids = ids_in(slots, "user", 20)
    assert len(set(ids)) == 20
    assert all(first <= slot_of(id_) <= last for id_ in ids)
