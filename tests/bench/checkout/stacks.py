"""The work of a Python process, from the stacks that py-spy sampled into a speedscope file."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.checkout.purposes import normalised, of_service, of_stack

# The owner of a stack's code, by the innermost frame that matches one of these; our code counts by function.
PARTS = {
    "aiohttp/": "HTTP (aiohttp)",
    "asyncpg/": "Postgres client (asyncpg)",
    "aiokafka/": "Kafka client (aiokafka)",
    "confluent_kafka/": "Kafka client",
    "prometheus_client/": "metrics",
    "structlog/": "logs",
    "logging/": "logs",
    "pydantic": "validation (pydantic)",
    "yarl/": "HTTP (aiohttp)",
    "multidict/": "HTTP (aiohttp)",
    "services/": "own code",
    "shared/": "own code",
    "asyncio/": "event loop",
    "uvloop/": "event loop",
}

Frame = tuple[str, str]  # file, function


@dataclass(frozen=True, slots=True)
class Stacks:
    """Sampled stacks, innermost frame first, each with its number of samples."""

    samples: Mapping[tuple[Frame, ...], float]

    @property
    def total(self) -> float:
        """Return the number of all samples."""
        return sum(self.samples.values())

    def by_part(self) -> Mapping[str, float]:
        """Return the samples by the owner of the code."""
        return self._by(part)

    def by_function(self) -> Mapping[str, float]:
        """Return the samples by our innermost function."""
        return self._by(own_function)

    def purposes(self, service: str) -> Mapping[str, float]:
        """Return the shares of the work by purpose. The event loop's share is divided in proportion."""
        whole = of_service(service)
        return {whole: 1.0} if whole else normalised(self._by(of_stack))

    def _by(self, name_of: Callable[[Sequence[Frame]], str | None]) -> Mapping[str, float]:
        sums: dict[str, float] = {}
        for frames, weight in self.samples.items():
            if (name := name_of(frames)) is not None:
                sums[name] = sums.get(name, 0.0) + weight
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def part(frames: Sequence[Frame]) -> str:
    """Return the owner of the code."""
    for file, _ in frames:
        for mark, name in PARTS.items():
            if mark in file:
                return name
    return "other"


def own_function(frames: Sequence[Frame]) -> str:
    """Return our innermost function."""
    for file, function in frames:
        if file.startswith(("services/", "shared/")):
            return f"{file}:{function}"
    return "no function of ours"


def short(file: str) -> str:
    """Return a file's path, beginning with its package."""
    for mark in ("site-packages/", "/lib/python3"):
        if mark in file:
            return file.rpartition(mark)[2]
    for root in ("services/", "shared/"):
        if f"/{root}" in file:
            return root + file.rpartition(f"/{root}")[2]
    return file


def load_speedscope(path: Path) -> Stacks:
    """Read py-spy's file."""
    document = json.loads(path.read_text())
    frames = [(short(frame.get("file") or ""), frame["name"]) for frame in document["shared"]["frames"]]
    samples: dict[tuple[Frame, ...], float] = {}
    for profile in document["profiles"]:
        for stack, weight in zip(profile["samples"], profile["weights"], strict=True):
            key = tuple(frames[index] for index in reversed(stack))
            samples[key] = samples.get(key, 0.0) + weight
    return Stacks(samples)
