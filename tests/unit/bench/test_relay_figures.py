"""A figure of the relay's speed that is not good enough fails the measurement."""

import pytest

from tests.bench.relay.events import BYTES, index, payload
from tests.bench.relay.figures import FIGURES, missed, percentile, table

KEPT = {figure.name: figure.at_least for figure in FIGURES}


def test_figures_that_are_just_good_enough_are_kept() -> None:
    assert missed(KEPT) == []


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: str(figure.name))
def test_figure_just_beyond_its_limit_is_missed(figure: object) -> None:
    (one,) = (each for each in FIGURES if each is figure)
    worse = one.at_least - 1 if one.unit == "/s" else one.at_least + 1
    (line,) = missed(KEPT | {one.name: worse})
    assert one.label in line
    rendered = table({name: [value] for name, value in KEPT.items()} | {one.name: [worse]}, {})
    assert rendered.count("(missed)") == 1


def test_a_figure_that_was_not_measured_is_missed() -> None:
    assert len(missed({})) == len(FIGURES)


def test_a_percentile_is_the_smallest_value_that_enough_of_them_do_not_exceed() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert percentile(hundred, 0.99) == 99
    assert percentile(hundred, 0.5) == 50
    assert percentile([3.0], 0.99) == 3.0


def test_event_contains_its_index() -> None:
    assert index(payload(123_456)) == 123_456
    assert len(payload(0)) == BYTES
