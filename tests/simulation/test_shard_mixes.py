"""Checks every mix of outcomes of a hold's parts, with a kill of the order process at each point.

`make points` also plays each mix in every order, and kills the process at each point with three shards too.
"""

import gc
import itertools
import os
from collections.abc import Iterable, Iterator

import pytest

from services.order import product_shards
from tests.simulation.invariants import ViolationError
from tests.simulation.mutants import SHARD_RULES, Mutant
from tests.simulation.mutations import replace
from tests.simulation.shard_mixes import Mix, Treatment, play_all

ALL = bool(os.environ.get("POINTS_ALL"))
# Only a shard that has forgotten what it applied shows it: the gate is closed, and the hold is there.
_HIDDEN = Mutant("a fenced part is hidden by another refusal", (replace(product_shards, "is_fenced", lambda _: False),))


@pytest.fixture(autouse=True)
def _no_collection_in_between() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def mixes_of(shards: int) -> Iterable[Mix]:
    if ALL:
        return itertools.product(Treatment, repeat=shards)
    return itertools.combinations_with_replacement(Treatment, shards)


def test_every_mix_of_two_shards_with_a_kill_at_every_point_leaves_no_hold_behind() -> None:
    assert play_all(mixes_of(2), lambda _number, last: range(1, last + 1)) > 250


def test_every_mix_of_three_shards_with_a_kill_leaves_no_hold_behind() -> None:
    step = 1 if ALL else 6
    assert play_all(mixes_of(3), lambda number, last: range(1 + number % step, last + 1, step)) > 150


@pytest.mark.parametrize("mutant", [*SHARD_RULES, _HIDDEN], ids=lambda mutant: mutant.name)
def test_mix_of_two_shards_shows_the_absence_of_a_rule(mutant: Mutant) -> None:
    mixes = list(itertools.product(Treatment, repeat=2))
    with mutant.applied(), pytest.raises(ViolationError):
        play_all(mixes, lambda _number, _last: ())
