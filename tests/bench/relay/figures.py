"""What is promised of the relay's speed, and whether a measurement keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


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


def table(measured: Mapping[str, Sequence[float]], beside: Mapping[str, Sequence[float]]) -> str:
    """Return the medians with their ranges beside those of the plain loop, as a table. Takes every round's figures."""
    lines = [
        "| figure | at least | moonshot | measured | a plain loop |",
        "|---|---|---|---|---|",
    ]
    for figure in FIGURES:
        rounds, loop = measured.get(figure.name), beside.get(figure.name)
        is_missed = rounds is not None and not figure.kept(median(rounds))
        cells = [
            figure.label,
            f"{figure.at_least:,.0f} {figure.unit}",
            f"{figure.moonshot:,.0f} {figure.unit}",
            _cell(rounds, figure.unit) + (" (missed)" if is_missed else ""),
            _cell(loop, figure.unit),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rounds: Sequence[float] | None, unit: str) -> str:
    if rounds is None:
        return "-"
    digits = 0 if unit == "/s" else 1
    return f"{median(rounds):,.{digits}f} {unit}, {min(rounds):,.{digits}f} to {max(rounds):,.{digits}f}"
