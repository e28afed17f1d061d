"""Counters become rates, also over restarts and gaps; histograms become quantiles."""

import math
from collections.abc import Mapping

import pytest

from deploy.console.figures.exposition import Key
from deploy.console.figures.readings import Look, Reading, Readings, quantile

Values = Mapping[str, float]


def key(name: str, **labels: str) -> Key:
    return Key(name, tuple(sorted(labels.items())))


def look(at: float, samples: Mapping[Key, float]) -> Look:
    return Look(at, samples)


def counted(before: float | None, now: float, seconds: float = 2.0) -> Reading:
    """Return the reading of a replica whose counter `done` was and is so."""
    first = None if before is None else look(10.0, {key("done"): before})
    return Reading(first, look(10.0 + seconds, {key("done"): now}))


@pytest.mark.parametrize(
    ("readings", "rate"),
    [
        pytest.param([counted(10, 30)], 10.0, id="growth"),
        pytest.param([counted(10, 10)], 0.0, id="no growth"),
        pytest.param([counted(100, 6)], 3.0, id="restart: it began again at 0"),
        pytest.param([counted(10, 30, seconds=20.0)], 1.0, id="the replica was away for a while"),
        pytest.param([counted(10, 30), counted(0, 2)], 11.0, id="two replicas"),
        pytest.param([counted(None, 30)], None, id="first look"),
        pytest.param([counted(None, 30), counted(0, 2)], 1.0, id="one of two for the first time"),
        pytest.param([], None, id="nobody answers"),
    ],
)
def test_rate_of_a_counter(readings: list[Reading], rate: float | None) -> None:
    assert Readings(readings).rate("done") == rate


def test_counter_that_was_not_there_before_has_grown_from_0() -> None:
    reading = Reading(look(0, {}), look(2, {key("refused", type="debit"): 4.0}))
    assert Readings([reading]).rate("refused", type="debit") == 2.0
    assert Readings([reading]).rate("refused", type="hold_stock") == 0.0


def test_gauges_are_added_or_the_highest_is_taken() -> None:
    readings = Readings([Reading(None, look(0, {key("running"): value})) for value in (3.0, 5.0)])
    assert readings.total("running") == 8.0
    assert readings.highest("running") == 5.0
    assert readings.total("absent") is readings.highest("absent") is None


def test_gauge_that_is_no_number_is_left_out() -> None:
    readings = Readings([Reading(None, look(0, {key("lag"): value})) for value in (math.nan, math.inf)])
    assert readings.total("lag") is None


def histogram(at: float, small: float, large: float, endless: float, total: float) -> Look:
    counts = {"0.1": small, "1.0": small + large, "+Inf": small + large + endless}
    samples = {key("s_bucket", le=bound): count for bound, count in counts.items()}
    return look(at, {**samples, key("s_count"): counts["+Inf"], key("s_sum"): total})


def test_quantile_and_mean_are_of_what_was_observed_between_the_looks() -> None:
    readings = Readings([Reading(histogram(0, 1000, 0, 0, 50.0), histogram(2, 1000, 10, 0, 55.0))])
    assert readings.quantile(0.5, "s") == pytest.approx(0.55)
    assert readings.mean("s") == pytest.approx(0.5)


def test_without_observations_there_is_no_quantile_and_no_mean() -> None:
    same = Readings([Reading(histogram(0, 5, 5, 0, 1.0), histogram(2, 5, 5, 0, 1.0))])
    assert same.quantile(0.99, "s") is same.mean("s") is None
    assert Readings([]).quantile(0.99, "s") is None


def test_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile(0.99, {0.1: 0.0, 1.0: 1.0, math.inf: 100.0}) == 1.0


@pytest.mark.parametrize(("share", "value"), [(0.0, 0.0), (0.25, 0.05), (0.5, 0.1), (0.75, 0.55), (1.0, 1.0)])
def test_observations_are_spread_evenly_within_a_bucket(share: float, value: float) -> None:
    assert quantile(share, {0.1: 50.0, 1.0: 100.0, math.inf: 100.0}) == pytest.approx(value)
