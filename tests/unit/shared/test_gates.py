"""Sorting of locked gates; a gate that was pruned before its lock makes the batch unknown."""

from typing import Any
from uuid import UUID

import pytest

from shared.participant.gates import sort_gates
from shared.refusals import Unavailable

ONE, TWO = UUID(int=1), UUID(int=2)


def row(gate: UUID, *, closed: bool = False, past: bool = False) -> Any:
    return {"gate": gate, "closed": closed, "past": past}


def test_closed_gate_and_passed_horizon_are_distinguished() -> None:
    assert sort_gates([row(ONE, closed=True), row(TWO, past=True)], [ONE, TWO]) == ({ONE}, {TWO})


def test_a_gate_that_vanished_before_it_was_locked_makes_the_batch_unknown() -> None:
    with pytest.raises(Unavailable):
        sort_gates([row(ONE)], [ONE, TWO])
