"""The participant protocol's pure half: gates, stored outcomes and fences, the same for every participant.

A command is a *do* or an *undo*. Every command names its gate: the id of what the saga is about. An undo
reverses whatever that id has here and closes its gate for good; a do on a closed gate is fenced off. Outcomes
are stored with their effect, so a repeat gets the answer it got before.

Standard library only: the rules that use it are tested without a fixture.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import UUID

from shared.fast_dataclass import fast_dataclass
from shared.refusals import Refusal


class Fenced(Refusal):
    """This was already undone here, so the command came too late."""

    slug = "fenced"
    status = 409


class Command(Protocol):
    """What the protocol needs to know of a command."""

    type: ClassVar[str]
    undo: ClassVar[bool]

    @property
    def gate(self) -> UUID:
        """Return the id whose gate this command passes."""

    @property
    def attempt(self) -> int:
        """Return which try of the same operation this is; 0 where there can be only one."""


@fast_dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command: applied with its `body` as result, or refused with it as problem."""

    applied: bool
    body: Mapping[str, Any]

    def wire(self) -> dict[str, Any]:
        """Return the outcome as the protocol sends it."""
        if self.applied:
            return {"outcome": "applied", "result": self.body}
        return {"outcome": "refused", "problem": self.body}


OutcomeKey = tuple[UUID, str, int]
C = TypeVar("C", bound=Command)
FENCED = Outcome(False, Fenced().problem())


def key(command: Command) -> OutcomeKey:
    """Return what a command's outcome is stored under."""
    return (command.gate, command.type, command.attempt)


def alone(commands: Sequence[C]) -> list[C]:
    """Return the dos whose gate no other command of the batch passes, in their order."""
    count = Counter(command.gate for command in commands)
    return [command for command in commands if not command.undo and count[command.gate] == 1]


@dataclass(slots=True)
class Verdict:
    """The decision on a batch: an outcome a command, and what of the protocol's state must be written."""

    outcomes: list[Outcome] = field(default_factory=list)
    new_outcomes: dict[OutcomeKey, Outcome] = field(default_factory=dict)
    newly_closed: set[UUID] = field(default_factory=set)


def decide(
    commands: Sequence[C],
    closed: Collection[UUID],
    stored: Mapping[OutcomeKey, Outcome],
    do: Callable[[C], Mapping[str, Any]],
    undo: Callable[[C], Mapping[str, Any]],
    past: Collection[UUID] = (),
) -> Verdict:
    """Decide a batch in arrival order.

    `closed`: the gates that are closed. `stored`: the outcomes that earlier batches stored. `do` and `undo`
    apply one command to the caller's working copy and return its result; `do` raises Refusal when the rules
    say no, and has then changed nothing. The gate is asked before the stored outcome: once undone, even a
    repeat of what was applied is refused. `past`: the gates so old that what was stored of them may be gone:
    nobody knows any more whether a do is a repeat, so it is refused; an undo asks only what is there to reverse.
    """
    verdict = Verdict()
    for command in commands:
        if command.gate in past and not command.undo:
            verdict.outcomes.append(FENCED)
        else:
            verdict.outcomes.append(_decide_one(command, closed, stored, do, undo, verdict))
    return verdict


def _decide_one(
    command: C,
    closed: Collection[UUID],
    stored: Mapping[OutcomeKey, Outcome],
    do: Callable[[C], Mapping[str, Any]],
    undo: Callable[[C], Mapping[str, Any]],
    verdict: Verdict,
) -> Outcome:
    is_closed = command.gate in closed or command.gate in verdict.newly_closed
    known = stored.get(key(command)) or verdict.new_outcomes.get(key(command))
    if command.undo:
        if is_closed:
            return known or Outcome(True, {})
        outcome = Outcome(True, undo(command))
        verdict.newly_closed.add(command.gate)
    elif is_closed:
        return FENCED
    elif known is not None:
        return known
    else:
        try:
            outcome = Outcome(True, do(command))
        except Refusal as refusal:
            outcome = Outcome(False, refusal.problem())
    verdict.new_outcomes[key(command)] = outcome
    return outcome
