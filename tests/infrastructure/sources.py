"""Chooses the source of a server for the test run: the first one that works on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.infrastructure.reaper import Reaper


@dataclass(frozen=True, slots=True)
class Source:
    """One source of a server: `why_not` returns None if it works here, `start` returns the server's address."""

    name: str
    description: str
    why_not: Callable[[], str | None]
    start: Callable[[Reaper], str]
    real: bool = True


def choose(sources: Sequence[Source], forced: str | None, variable: str) -> Source:
    """Return the forced source, or the first that works here. Raises UsageError with the reason of each."""
    names = [source.name for source in sources]
    if forced is not None and forced not in names:
        raise pytest.UsageError(f"{variable}={forced}: it can be {', '.join(names)}")
    obstacles = []
    for source in sources:
        if forced in (None, source.name):
            obstacle = source.why_not()
            if obstacle is None:
                return source
            obstacles.append(f"{source.name}: {obstacle}")
    raise pytest.UsageError(f"no source works here ({variable} chooses one): " + "; ".join(obstacles))
