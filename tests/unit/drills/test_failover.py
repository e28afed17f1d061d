"""The verdict on a fault of `make drill-failover`, and its row on the page."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.drills.failover.customers import Told, closed_to
from tests.drills.failover.faults import FAULTS, LOST_MAX_SECONDS
from tests.drills.failover.rounds import Round, row, rows_of, table, verdict_of
from tests.drills.table import BEGIN, END

PAGE = Path(__file__).parents[3] / "docs" / "failover.md"
BY_NAME = {fault.name: fault for fault in FAULTS}
TAKE_THE_TTL = {"kill", "pause", "strict-kill", "strict-kill-standbys"}
GOOD = Round(1.0, 1.0, 1.0, "", {"201": 10}, 10, 0, "clean", ())


@pytest.mark.parametrize("name", BY_NAME)
def test_only_a_lost_primary_may_take_as_long_as_its_key(name: str) -> None:
    fault = BY_NAME[name]
    assert (fault.each_max_seconds < LOST_MAX_SECONDS) is (name not in TAKE_THE_TTL)
    assert not verdict_of(fault, [replace(GOOD, without_seconds=fault.each_max_seconds)])
    (wrong,) = verdict_of(fault, [replace(GOOD, without_seconds=fault.each_max_seconds + 1)])
    assert "without a 201" in wrong
    (wrong,) = verdict_of(fault, [replace(GOOD, failing_seconds=fault.each_max_seconds + 1)])
    assert "until the last failure" in wrong


def test_median_of_several_rounds_has_a_lower_limit_than_each_of_them() -> None:
    slow = replace(GOOD, without_seconds=8.0)
    assert not verdict_of(BY_NAME["switchover"], [slow])
    assert not verdict_of(BY_NAME["switchover"], [GOOD, slow, GOOD])
    (wrong,) = verdict_of(BY_NAME["switchover"], [slow, slow, GOOD])
    assert wrong.startswith("median 8.0 s without a 201")


def test_page_has_a_row_for_each_fault() -> None:
    rows = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert re.findall(r"^\| `([\w-]+)` \|", rows, re.M) == list(BY_NAME)


def test_lines_of_a_page_are_found_by_fault_so_that_a_run_of_one_keeps_the_others() -> None:
    lines = {name: row(BY_NAME[name], [GOOD]) for name in ("kill", "strict-kill-standbys")}
    assert rows_of(f"before\n{table(lines.values())}\nafter") == lines


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (Told(5, 6, "503", places=True), []),
        (Told(1, 6, "201", places=True), ["nobody asked for anything while no standby was in sync"]),
        (Told(5, 6, "201", places=True), ["told while no standby was in sync: {'201': 1}"]),
        (Told(5, 6, "200", places=False), ["told while no standby was in sync: {'200': 1}"]),
        (Told(5, 6, "202", places=True), ["told while no standby was in sync: {'202': 1}"]),
        (Told(5, 9, "201", places=True), ["nobody asked for anything while no standby was in sync"]),
    ],
)
def test_nothing_may_succeed_that_is_first_asked_for_without_a_standby(told: Told, wrong: list[str]) -> None:
    assert closed_to([told], since=4, until=8) == wrong
