"""The pure part of a measurement: medians and ranges, the ratios that are promised, and whether they are kept."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds gave: their median, and between which values they lay."""

    median: float
    low: float
    high: float
    rounds: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return Spread(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is promised. `more_is_better`: else it is an upper limit. `percent`: shown as one."""

    name: str
    text: str
    at_least: float
    moonshot: float
    more_is_better: bool = True
    percent: bool = False

    def kept(self, value: float, limit: float) -> bool:
        """Whether a value is within a limit."""
        return value >= limit if self.more_is_better else value <= limit

    def shown(self, value: float) -> str:
        """A value as people read it."""
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
    """A target and what was measured; None if it could not be."""

    target: Target
    value: float | None

    @property
    def missed(self) -> bool:
        """Whether it is not what it has to be at least."""
        return self.value is None or not self.target.kept(self.value, self.target.at_least)

    def line(self) -> str:
        """The verdict in a line."""
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
    """The verdicts on what was measured, by the names in `ratios`."""
    values = ratios(medians)
    return [Verdict(target, values.get(target.name)) for target in TARGETS]


def ratios(medians: Mapping[str, float]) -> dict[str, float]:
    """The promised ratios, each if both of its figures are there.

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
