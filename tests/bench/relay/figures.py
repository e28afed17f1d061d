"""What is promised of the relay's speed, and whether a measurement keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with what it has to be at least; less is better for milliseconds, more for events a second."""

    name: str
    label: str
    unit: str
    at_least: float
    moonshot: float

    def kept(self, value: float) -> bool:
        """Return whether a value is good enough."""
        return value >= self.at_least if self.unit == "/s" else value <= self.at_least


def _latency(name: str, label: str, at_least: tuple[float, float], moonshot: tuple[float, float]) -> list[Figure]:
    return [
        Figure(f"{name}_p50", f"{label}, p50", "ms", at_least[0], moonshot[0]),
        Figure(f"{name}_p99", f"{label}, p99", "ms", at_least[1], moonshot[1]),
    ]


FIGURES = [
    Figure("drain", "draining a backlog, 4 shards", "/s", 25_000, 40_000),
    *_latency("latency_500", "commit to consumer at 500/s", (10, 40), (5, 20)),
    *_latency("latency_2000", "commit to consumer at 2,000/s", (50, 110), (20, 50)),
    *_latency("plain_sends_2000", "at 2,000/s without transactions", (20, 60), (5, 30)),
]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of the values don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 1).__int__() - 1)]


def missed(measured: Mapping[str, float]) -> list[str]:
    """Return a line for each figure that is not good enough, or was not measured."""
    lines = []
    for figure in FIGURES:
        value = measured.get(figure.name)
        if value is None:
            lines.append(f"{figure.label}: not measured")
        elif not figure.kept(value):
            lines.append(f"{figure.label}: {value:,.1f} {figure.unit}, to be {figure.at_least:,.0f}")
    return lines


def table(measured: Mapping[str, float], beside: Mapping[str, float]) -> str:
    """Return the figures beside those of the plain loop, as a table."""
    lines = [
        "| figure | at least | moonshot | measured | a plain loop |",
        "|---|---|---|---|---|",
    ]
    for figure in FIGURES:
        value, loop = measured.get(figure.name), beside.get(figure.name)
        cells = [
            figure.label,
            f"{figure.at_least:,.0f} {figure.unit}",
            f"{figure.moonshot:,.0f} {figure.unit}",
            "-" if value is None else f"{value:,.1f} {figure.unit}" + ("" if figure.kept(value) else " (missed)"),
            "-" if loop is None else f"{loop:,.1f} {figure.unit}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
