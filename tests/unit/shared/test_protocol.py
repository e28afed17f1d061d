"""The protocol's pure half: stored outcomes, fences, and undos that close permanently."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from shared.participant.protocol import FENCED, Outcome, Verdict, alone, decide, key
from shared.refusals import Refusal

GATE, OTHER = UUID(int=1), UUID(int=2)


class No(Refusal):
    """A refusal of the test."""

    slug = "no"


@dataclass(frozen=True, slots=True)
class Do:
    """A do; the rules refuse it if `refused` is set."""

    type: ClassVar[str] = "do"
    undo: ClassVar[bool] = False
    gate: UUID = GATE
    attempt: int = 0
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Undo:
    """The do's undo."""

    type: ClassVar[str] = "undo"
    undo: ClassVar[bool] = True
    gate: UUID = GATE
    attempt: int = 0


Command = Do | Undo


class Rules:
    """Records what was done and undone, in order."""

    def __init__(self) -> None:
        self.calls: list[Command] = []

    def do(self, command: Command) -> Mapping[str, Any]:
        assert isinstance(command, Do)
        if command.refused:
            raise No
        self.calls.append(command)
        return {"call": len(self.calls)}

    def undo(self, command: Command) -> Mapping[str, Any]:
        self.calls.append(command)
        return {}


def run(*commands: Command, closed: frozenset[UUID] = frozenset(), **stored: Outcome) -> tuple[Verdict, list[Command]]:
    """Decide with `stored` by the commands' type, for GATE and attempt 0."""
    rules = Rules()
    known = {(GATE, kind, 0): outcome for kind, outcome in stored.items()}
    return decide(commands, closed, known, rules.do, rules.undo), rules.calls


def test_new_command_is_decided_and_its_outcome_stored() -> None:
    verdict, calls = run(Do(), Do(OTHER, refused=True))
    assert verdict.outcomes == [Outcome(True, {"call": 1}), Outcome(False, No().problem())]
    assert verdict.new_outcomes == {(GATE, "do", 0): verdict.outcomes[0], (OTHER, "do", 0): verdict.outcomes[1]}
    assert calls == [Do()]


def test_a_stored_outcome_is_answered_again_and_neither_decided_nor_stored() -> None:
    for stored in (Outcome(True, {"call": 9}), Outcome(False, No().problem())):
        verdict, calls = run(Do(), do=stored)
        assert (verdict.outcomes, verdict.new_outcomes, calls) == ([stored], {}, [])


def test_a_repeat_within_the_batch_is_answered_like_the_first() -> None:
    verdict, calls = run(Do(), Do())
    assert (verdict.outcomes[0], calls) == (verdict.outcomes[1], [Do()])


def test_each_attempt_is_decided_on_its_own() -> None:
    verdict, calls = run(Do(attempt=1, refused=True), Do(attempt=2))
    assert [outcome.applied for outcome in verdict.outcomes] == [False, True]
    assert calls == [Do(attempt=2)]


def test_an_undo_closes_its_gate_and_no_other() -> None:
    verdict, _ = run(Undo(), Do(OTHER))
    assert verdict.newly_closed == {GATE}
    assert [outcome.applied for outcome in verdict.outcomes] == [True, True]


def test_a_do_on_a_closed_gate_is_fenced_and_the_fence_is_not_stored() -> None:
    verdict, calls = run(Do(), closed=frozenset({GATE}))
    assert (verdict.outcomes, verdict.new_outcomes, calls) == ([FENCED], {}, [])


def test_a_gate_closed_earlier_in_the_batch_fences_as_well() -> None:
    verdict, calls = run(Undo(), Do())
    assert verdict.outcomes[1] == FENCED
    assert calls == [Undo()]


def test_the_gate_is_asked_before_the_stored_outcome() -> None:
    verdict, _ = run(Do(), closed=frozenset({GATE}), do=Outcome(True, {}))
    assert verdict.outcomes == [FENCED]


def test_a_repeated_undo_is_applied_and_changes_nothing() -> None:
    for stored in ({"undo": Outcome(True, {"what": "it said"})}, {}):
        verdict, calls = run(Undo(), closed=frozenset({GATE}), **stored)
        assert verdict.outcomes == [stored.get("undo", Outcome(True, {}))]
        assert (verdict.new_outcomes, verdict.newly_closed, calls) == ({}, set(), [])


def test_do_before_the_horizon_is_fenced_even_if_its_outcome_is_stored() -> None:
    rules = Rules()
    verdict = decide([Do(), Do(OTHER)], (), {(GATE, "do", 0): Outcome(True, {})}, rules.do, rules.undo, {GATE})
    assert verdict.outcomes == [FENCED, Outcome(True, {"call": 1})]
    assert list(verdict.new_outcomes) == [(OTHER, "do", 0)]


def test_undo_before_the_horizon_still_undoes_and_closes() -> None:
    rules = Rules()
    verdict = decide([Undo()], (), {}, rules.do, rules.undo, {GATE})
    assert (verdict.outcomes, verdict.newly_closed, rules.calls) == ([Outcome(True, {})], {GATE}, [Undo()])


def test_a_command_is_known_by_its_gate_type_and_attempt() -> None:
    assert key(Do(OTHER, attempt=3, refused=True)) == (OTHER, "do", 3)


def test_outcomes_go_over_the_wire_as_result_or_problem() -> None:
    assert Outcome(True, {"a": 1}).wire() == {"outcome": "applied", "result": {"a": 1}}
    assert FENCED.wire()["problem"].items() >= {"type": "/problems/fenced", "status": 409}.items()


def test_only_dos_with_a_gate_of_their_own_in_the_batch_are_alone() -> None:
    third = UUID(int=3)
    batch: list[Command] = [Do(), Do(attempt=1), Undo(OTHER), Do(third)]
    assert alone(batch) == [Do(third)]
