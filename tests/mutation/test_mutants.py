"""Every rule that the reference model needs is needed here too: without it, the simulation finds a violation.

`make mutants` plays it; it is not among the tests of `make test`, for it takes as long as half of them.
"""

import gc
from collections.abc import Iterator

import pytest

from tests.simulation.history import play
from tests.simulation.mutants import BUGS, RULES, Mutant

# The rarest of them shows in one history of some hundreds.
HISTORIES_MAX = 1200


@pytest.fixture(autouse=True)
def _no_collection_in_between() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.mark.parametrize("mutant", [*RULES, *BUGS], ids=lambda mutant: mutant.name)
def test_the_simulation_notices(mutant: Mutant) -> None:
    with mutant.applied():
        assert any(play(seed).violation for seed in range(HISTORIES_MAX)), "nothing was noticed"
    assert play(0).violation is None, "the product is not whole again"
