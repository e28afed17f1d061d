"""What two looks at the replicas of a service say: rates of counters, gauges, quantiles of histograms. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.console.figures.exposition import Key, Samples


@dataclass(frozen=True, slots=True)
class Look:
    """What a replica reported. `at`: seconds on the monotonic clock."""

    at: float
    samples: Samples


@dataclass(frozen=True, slots=True)
class Reading:
    """A replica's last two looks; `before` is None at first."""

    before: Look | None
    now: Look

    @property
    def seconds(self) -> float:
        """Return the time between the two."""
        return self.now.at - self.before.at if self.before else 0.0

    def increase(self, key: Key) -> float:
        """Return by how much a counter has grown. One that is smaller than before began again at 0."""
        assert self.before is not None
        before, now = self.before.samples.get(key, 0.0), self.now.samples[key]
        return now - before if now >= before else now


@dataclass(frozen=True, slots=True)
class Readings:
    """The readings of the replicas of one service that have answered this time."""

    replicas: Sequence[Reading]

    def rate(self, name: str, **labels: str) -> float | None:
        """Return how much the counters of all replicas with these labels grow a second; None if nothing is known."""
        known = [reading for reading in self.replicas if reading.seconds > 0]
        if not known:
            return None
        return sum(
            sum(reading.increase(key) for key in _keys(reading, name, labels)) / reading.seconds for reading in known
        )

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum of gauges over all replicas, None if none reports it."""
        values = self._values(name, labels)
        return sum(values) if values else None

    def highest(self, name: str, **labels: str) -> float | None:
        """Return the highest value of gauges that each replica measures for all; None if none reports it."""
        return max(self._values(name, labels), default=None)

    def mean(self, name: str, **labels: str) -> float | None:
        """Return the mean of what a histogram observed between the two looks; None if nothing was observed."""
        count, total = self.rate(f"{name}_count", **labels), self.rate(f"{name}_sum", **labels)
        return total / count if count and total is not None else None

    def quantile(self, share: float, name: str, **labels: str) -> float | None:
        """Return a quantile of what a histogram observed between the two looks; None if nothing was observed."""
        buckets: dict[float, float] = {}
        for reading in self.replicas:
            if reading.seconds > 0:
                for key in _keys(reading, f"{name}_bucket", labels):
                    bound = float(dict(key.labels)["le"])
                    buckets[bound] = buckets.get(bound, 0.0) + reading.increase(key)
        return quantile(share, buckets)

    def _values(self, name: str, labels: Mapping[str, str]) -> list[float]:
        found = [reading.now.samples[key] for reading in self.replicas for key in _keys(reading, name, labels)]
        return [value for value in found if math.isfinite(value)]


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Return a quantile of a histogram, as Prometheus estimates it: evenly spread within a bucket.

    `buckets`: how many observations were at most each upper bound, infinity included. Beyond the last finite bound, the
    result is that bound. None without observations.
    """
    bounds = sorted(buckets)
    count = buckets[bounds[-1]] if bounds else 0.0
    if count <= 0:
        return None
    rank, lower, below = share * count, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return lower
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        lower, below = bound, buckets[bound]
    return lower


def _keys(reading: Reading, name: str, labels: Mapping[str, str]) -> list[Key]:
    return [key for key in reading.now.samples if key.name == name and key.has(labels)]
