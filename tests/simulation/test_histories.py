"""Plays histories of the product under every kind of fault, and checks that they can be repeated.

`make simulate` plays many more, with seeds of its own.
"""

import gc
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from services.order.saga import Kind
from tests.simulation.__main__ import play_many
from tests.simulation.history import HistoryResult, play
from tests.simulation.mutants import RULES
from tests.simulation.world import FaultRates

# More than a simulation may take until it detects any rule's absence (tests/mutation/test_mutants.py).
HISTORIES = 500
REACHING = 150  # as many reach everything
# In parts, so that a failure names its seed soon and a slow machine stays within a test's time.
PARTS = [range(first, first + 70) for first in range(REACHING, HISTORIES, 70)]
ENDS = [
    *((Kind.PLACE_NOW, status) for status in ("PAID", "REJECTED")),
    *((Kind.PLACE_LATER, status) for status in ("PENDING_PAYMENT", "REJECTED")),
    *((Kind.PAY, status) for status in ("PAID", "PENDING_PAYMENT", "CANCELLED")),
    *((Kind.CLOSE, status) for status in ("CANCELLED", "EXPIRED", "REFUNDED")),
]


@pytest.fixture(autouse=True)
def _no_collection_in_between() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def clean(seed: int) -> HistoryResult:
    """Play a history, which must break no invariant."""
    result = play(seed)
    assert result.violation is None, f"{result.violation}; replay it: make simulate SEED={seed}"
    return result


@pytest.mark.parametrize("seeds", PARTS)
def test_no_history_breaks_an_invariant(seeds: range) -> None:
    for seed in seeds:
        clean(seed)


def test_histories_reach_every_end_and_every_fault_and_break_no_invariant() -> None:
    def count(name: str, labels: dict[str, str] | None = None) -> float:
        return REGISTRY.get_sample_value(f"{name}_total", labels or {}) or 0.0

    def counts() -> dict[str, float]:
        ends = {f"{kind} {end}": count("sagas_ended", {"kind": kind.value, "end": end}) for kind, end in ENDS}
        return ends | {name: count(name) for name in ("sagas_taken_over", "saga_transitions_lost")}

    before, hits = counts(), Counter[str]()
    for seed in range(REACHING):
        hits.update(clean(seed).hits)
    reached = {name: value - before[name] for name, value in counts().items()}
    assert all(reached.values()), reached
    assert set(hits) == set(FaultRates.__slots__), hits


def test_a_history_played_again_takes_the_same_steps() -> None:
    first, again = play(7, recording=True), play(7, recording=True)
    assert first.trace == again.trace
    assert (first.steps, first.hash) == (again.steps, again.hash)


def test_another_process_plays_the_same_history() -> None:
    result = play(11)
    command = [sys.executable, "-m", "tests.simulation", "--seed", "11"]
    environment = os.environ | {"PYTHONHASHSEED": "4242"}
    shown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert shown.splitlines()[-1] == f"history 11: {result.steps} steps, trace {result.hash:08x}, clean"


def test_a_failure_names_its_seed_and_can_be_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    with RULES[1].applied():
        assert play_many(0, 100_000) == 1
        output = capsys.readouterr().err
        seed = int(output.partition("make simulate SEED=")[2])
        again = play(seed)
    assert again.violation is not None
    assert again.violation in output
