"""The pure part of a measurement: medians and ranges, the promised ratios, and their verdicts."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of several rounds: their median and range."""

    median: float
    low: float
    high: float
    rounds: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return Spread(statistics.median(values), min(values), max(values), len(values))


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return two of the values between which the median of all possible values lies, with at least this confidence.

    Source: the sign test, which assumes nothing of how the values are distributed. With fewer than six values it is
    their range, and the confidence is lower.
    """
    ordered, count = sorted(values), len(values)

    def outside(rank: int) -> float:
        return float(2 * sum(math.comb(count, below) for below in range(rank)) / 2**count)

    rank = max((rank for rank in range(1, count // 2 + 1) if outside(rank) <= 1 - confidence), default=1)
    return ordered[rank - 1], ordered[-rank]


@dataclass(frozen=True, slots=True)
class Target:
    """A promised figure. `more_is_better`: a lower limit, else an upper limit. `percent`: shown as a percentage."""

    name: str
    text: str
    at_least: float
    moonshot: float
    more_is_better: bool = True
    percent: bool = False

    def kept(self, value: float, limit: float) -> bool:
        """Return whether a value is within a limit."""
        return value >= limit if self.more_is_better else value <= limit

    def shown(self, value: float) -> str:
        """Return a value as text."""
        return f"{value:.1%}" if self.percent else f"{value:.2f}"


TARGETS: Final = (
    Target("saga", "cold, 64 clients, against pgbench saga-shaped at its best", 1.0, 1.5),
    Target("single", "cold, 64 clients, against pgbench with one statement per transaction at its best", 0.7, 1.0),
    Target("hot", "hot, 64 clients, against pgbench hot at its best", 1.2, 2.0),
    Target("peer", "cold, 64 clients, against dbos at its best, pinned to cores", 12, 25),
    Target("alone", "1 client, latency p50 against pgbench's with 1 client", 6, 3, more_is_better=False),
    Target("tail", "cold, 64 clients, p99 against p50", 3, 2, more_is_better=False),
    Target("safety", "CPU for fences, stored outcomes, ledger and saga record", 0.2, 0.1, False, percent=True),
    Target("crowd", "cold, 256 clients against 64", 0.9, 1.2),
    Target("replicas", "CPU per checkout, two order replicas against one", 1.1, 1.0, more_is_better=False),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and its measured value; None if it could not be measured."""

    target: Target
    value: float | None

    @property
    def missed(self) -> bool:
        """Return whether the value misses the limit."""
        return self.value is None or not self.target.kept(self.value, self.target.at_least)

    def line(self) -> str:
        """Return the verdict in a line."""
        target = self.target
        bound = "at least" if target.more_is_better else "at most"
        if self.value is None:
            return f"{target.text}: not measured ({bound} {target.shown(target.at_least)}) MISSED"
        if self.missed:
            word = "MISSED"
        elif target.kept(self.value, target.moonshot):
            word = "kept, and the moonshot too"
        else:
            word = "kept"
        return f"{target.text}: {target.shown(self.value)} ({bound} {target.shown(target.at_least)}) {word}"


def verdicts(medians: Mapping[str, float]) -> list[Verdict]:
    """Return the verdicts on the measured values, by the names in `ratios`."""
    values = ratios(medians)
    return [Verdict(target, values.get(target.name)) for target in TARGETS]


def ratios(medians: Mapping[str, float]) -> dict[str, float]:
    """Return the promised ratios, each if both of its figures exist.

    `medians` by name: rates as "cold 64", "pgbench saga"; latencies as "cold 64 p50"; "safety" is a share already, and
    "cpu 1 order" and "cpu 2 orders" are seconds a checkout.
    """
    parts = {
        "saga": ("cold 64", "pgbench saga"),
        "single": ("cold 64", "pgbench single"),
        "hot": ("hot 64", "pgbench saga hot"),
        "peer": ("cold 64", "peer"),
        "alone": ("cold 1 p50", "pgbench saga 1 client p50"),
        "tail": ("cold 64 p99", "cold 64 p50"),
        "crowd": ("cold 256", "cold 64"),
        "replicas": ("cpu 2 orders", "cpu 1 order"),
    }
    found = {
        name: medians[above] / medians[below]
        for name, (above, below) in parts.items()
        if above in medians and medians.get(below)
    }
    if "safety" in medians:
        found["safety"] = medians["safety"]
    return found
