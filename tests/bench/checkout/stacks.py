"""What a Python process was doing, from the stacks that py-spy sampled into a speedscope file."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.checkout.purposes import normalised, of_service, of_stack

# Whose code a stack is in, by the innermost frame that one of these matches; own code counts by function.
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
    """Sampled stacks, innermost frame first, with how often each was seen."""

    samples: Mapping[tuple[Frame, ...], float]

    @property
    def total(self) -> float:
        """All samples."""
        return sum(self.samples.values())

    def by_part(self) -> Mapping[str, float]:
        """Samples by whose code they were in."""
        return self._by(part)

    def by_function(self) -> Mapping[str, float]:
        """Samples by the innermost function of our own."""
        return self._by(own_function)

    def purposes(self, service: str) -> Mapping[str, float]:
        """What its work was for, as shares. The event loop's share is divided as the rest is."""
        whole = of_service(service)
        return {whole: 1.0} if whole else normalised(self._by(of_stack))

    def _by(self, name_of: Callable[[Sequence[Frame]], str | None]) -> Mapping[str, float]:
        sums: dict[str, float] = {}
        for frames, weight in self.samples.items():
            if (name := name_of(frames)) is not None:
                sums[name] = sums.get(name, 0.0) + weight
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def part(frames: Sequence[Frame]) -> str:
    """Whose code it is in."""
    for file, _ in frames:
        for mark, name in PARTS.items():
            if mark in file:
                return name
    return "other"


def own_function(frames: Sequence[Frame]) -> str:
    """The innermost function of our own."""
    for file, function in frames:
        if file.startswith(("services/", "shared/")):
            return f"{file}:{function}"
    return "no function of ours"


def short(file: str) -> str:
    """A file's path from its package on."""
    for mark in ("site-packages/", "/lib/python3"):
        if mark in file:
            return file.rpartition(mark)[2]
    for root in ("services/", "shared/"):
        if f"/{root}" in file:
            return root + file.rpartition(f"/{root}")[2]
    return file


def load_speedscope(path: Path) -> Stacks:
    """Read what py-spy wrote."""
    document = json.loads(path.read_text())
    frames = [(short(frame.get("file") or ""), frame["name"]) for frame in document["shared"]["frames"]]
    samples: dict[tuple[Frame, ...], float] = {}
    for profile in document["profiles"]:
        for stack, weight in zip(profile["samples"], profile["weights"], strict=True):
            key = tuple(frames[index] for index in reversed(stack))
            samples[key] = samples.get(key, 0.0) + weight
    return Stacks(samples)
