"""Medians, ratios and verdicts of a measurement."""

import pytest

from tests.bench.checkout.figures import TARGETS, Spread, Target, Verdict, median_interval, ratios, verdicts

KEPT_BARELY = {
    "cold 64": 1000.0,
    "pgbench saga": 1000.0,
    "pgbench single": 1428.0,
    "hot 64": 600.0,
    "pgbench saga hot": 500.0,
    "peer": 83.0,
    "cold 1 p50": 6000.0,
    "pgbench saga 1 client p50": 1000.0,
    "cold 64 p99": 90.0,
    "cold 64 p50": 30.0,
    "safety": 0.2,
    "cold 256": 900.0,
    "cpu 2 orders": 550.0,
    "cpu 1 order": 500.0,
}
# What makes each ratio a tenth worse.
SPOILT = {
    "saga": {"pgbench saga": 1112.0},
    "single": {"pgbench single": 1600.0},
    "hot": {"hot 64": 540.0},
    "peer": {"peer": 93.0},
    "alone": {"cold 1 p50": 6700.0},
    "tail": {"cold 64 p99": 99.0},
    "safety": {"safety": 0.22},
    "crowd": {"cold 256": 810.0},
    "replicas": {"cpu 2 orders": 605.0},
}


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (0, 0)), (5, (0, 4)), (6, (0, 5)), (9, (1, 7)), (10, (1, 8)), (20, (5, 14))]
)
def test_interval_of_a_median_follows_the_sign_test(count: int, expected: tuple[int, int]) -> None:
    assert median_interval([float(value) for value in reversed(range(count))]) == expected


def test_a_spread_is_the_median_and_the_range_of_the_rounds() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)


def test_an_even_number_of_rounds_has_its_median_in_between() -> None:
    assert Spread.of([1.0, 2.0]).median == 1.5


def test_all_targets_are_kept_if_every_ratio_equals_its_limit() -> None:
    assert [verdict.target.name for verdict in verdicts(KEPT_BARELY) if verdict.missed] == []


@pytest.mark.parametrize("name", SPOILT)
def test_a_ratio_that_is_worse_is_missed_and_no_other(name: str) -> None:
    found = verdicts({**KEPT_BARELY, **SPOILT[name]})
    assert [verdict.target.name for verdict in found if verdict.missed] == [name]


def test_every_target_has_its_case_above() -> None:
    assert set(SPOILT) == {target.name for target in TARGETS}


@pytest.mark.parametrize("figure", KEPT_BARELY)
def test_unmeasured_figure_is_missed(figure: str) -> None:
    found = verdicts({name: value for name, value in KEPT_BARELY.items() if name != figure})
    missed = [verdict for verdict in found if verdict.missed]
    assert missed
    assert all("not measured" in verdict.line() and "MISSED" in verdict.line() for verdict in missed)


def test_figure_of_zero_gives_no_ratio() -> None:
    assert "saga" not in ratios({"cold 64": 100.0, "pgbench saga": 0.0})


def test_the_line_of_a_verdict_names_figure_and_limit() -> None:
    target = Target("saga", "cold against saga", 1.0, 1.5)
    assert Verdict(target, 0.93).line() == "cold against saga: 0.93 (at least 1.00) MISSED"
    assert Verdict(target, 1.2).line() == "cold against saga: 1.20 (at least 1.00) kept"
    assert Verdict(target, 1.5).line() == "cold against saga: 1.50 (at least 1.00) kept, and the moonshot too"


def test_upper_limits_and_shares_are_labelled_as_such() -> None:
    target = Target("safety", "safety", 0.2, 0.1, more_is_better=False, percent=True)
    assert Verdict(target, 0.25).line() == "safety: 25.0% (at most 20.0%) MISSED"
    assert Verdict(target, 0.1).line() == "safety: 10.0% (at most 20.0%) kept, and the moonshot too"
