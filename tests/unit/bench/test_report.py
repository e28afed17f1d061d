"""The tables and the chart of a measurement."""

from xml.etree import ElementTree as Tree

import pytest

from tests.bench.checkout.figures import Spread
from tests.bench.checkout.report import ROWS, chart, cpu_table, table

SPREADS = {
    "cold 64": Spread(2000.0, 1900.0, 2100.0, 3),
    "cold 64 p50": Spread(30_000.0, 29_000.0, 31_000.0, 3),
    "cold 64 cpu": Spread(500.0, 490.0, 510.0, 3),
    "cold 64 cpu order": Spread(200.0, 190.0, 210.0, 3),
    "cold 64 cpu postgres": Spread(300.0, 290.0, 310.0, 3),
    "peer": Spread(140.0, 130.0, 150.0, 3),
}
SVG = "{http://www.w3.org/2000/svg}"


def test_row_has_rate_range_latency_and_cost() -> None:
    row = next(line for line in table(SPREADS).splitlines() if line.startswith("cold, 64 clients"))
    assert row.split()[3:] == ["2,000", "1,900-2,100", "30.0", "500"]


def test_only_measured_figures_have_a_row() -> None:
    assert len(table(SPREADS).splitlines()) == 3


def test_the_cpu_table_gives_each_process_its_share() -> None:
    lines = cpu_table(SPREADS, ["cold 64"]).splitlines()
    assert [line.split() for line in lines[1:]] == [["order", "200", "(40%)"], ["postgres", "300", "(60%)"]]


def test_the_chart_is_svg_with_a_bar_in_proportion_for_each_row() -> None:
    svg = Tree.fromstring(chart(SPREADS, "rates & ranges"))
    assert svg.tag == f"{SVG}svg"
    widths = [float(bar.attrib["width"]) for bar in svg.findall(f"{SVG}rect")[1:]]
    assert len(widths) == 2
    assert widths[0] / widths[1] == pytest.approx(2000 / 140, rel=0.01)


def test_chart_without_rows_is_valid_and_empty() -> None:
    assert Tree.fromstring(chart({}, "nothing")).findall(f"{SVG}line") == []


def test_chart_is_high_enough_for_every_row() -> None:
    svg = Tree.fromstring(chart(dict.fromkeys(ROWS, Spread(1.0, 1.0, 1.0, 1)), "all"))
    bottoms = [float(bar.attrib["y"]) + float(bar.attrib["height"]) for bar in svg.findall(f"{SVG}rect")[1:]]
    assert max(bottoms) <= float(svg.attrib["height"])
