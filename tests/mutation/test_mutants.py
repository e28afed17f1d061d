"""Checks that the simulation detects each mutant of the fixed set within a bounded number of histories.

`make mutants` runs it. It takes too long for `make test`.
"""

import gc
from collections.abc import Iterator

import pytest

from tests.simulation.history import play
from tests.simulation.mutants import BUGS, RULES, Mutant

# About six times the mean of the mutant that takes longest (tests/simulation/README.md). A mutant that needs more has
# become too rare: make the simulator produce its situation more often.
HISTORIES_MAX = 400


@pytest.fixture(autouse=True)
def _no_collection_in_between() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.mark.parametrize("mutant", [*RULES, *BUGS], ids=lambda mutant: mutant.name)
def test_mutant_is_detected_by_the_simulation(mutant: Mutant) -> None:
    with mutant.applied():
        assert any(play(seed).violation for seed in range(HISTORIES_MAX)), "not detected"
    assert play(0).violation is None, "the mutant was not reverted"
