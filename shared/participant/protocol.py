"""The pure rules of the participant protocol: gates, stored outcomes and fences, the same for every participant.

A command is a *do* or an *undo*. Every command names its gate: the id of what the saga is about. An undo
reverses everything that this id has here and closes its gate for good. A do on a closed gate is refused as
fenced. Outcomes are stored with their effect, so a repeat gets the answer it got before.

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
    """What the protocol needs from a command."""

    type: ClassVar[str]
    undo: ClassVar[bool]

    @property
    def gate(self) -> UUID:
        """Return the id whose gate this command passes."""

    @property
    def attempt(self) -> int:
        """Return which try of the same operation this is; 0 where there can be only one."""


@dataclass(frozen=True, slots=True)
class Do:
    """What participants' dos have in common: the id whose gate must be open."""

    type: ClassVar[str]
    undo: ClassVar[bool] = False
    gate: UUID


@dataclass(frozen=True, slots=True)
class Undo:
    """What participants' undos have in common: the id whose gate this closes."""

    type: ClassVar[str]
    undo: ClassVar[bool] = True
    gate: UUID
    attempt: int = 0


@fast_dataclass(frozen=True, slots=True)
class Outcome:
    """A command's outcome: applied, with `body` as its result, or refused, with `body` as the problem."""

    applied: bool
    body: Mapping[str, Any]

    def wire(self) -> dict[str, Any]:
        """Return the outcome as the protocol sends it."""
        if self.applied:
            return {"outcome": "applied", "result": self.body}
        return {"outcome": "refused", "problem": self.body}


class Batch(Protocol):
    """A working copy of what the commands of one batch concern; the rules change it, without I/O."""

    def do(self, command: Any) -> Mapping[str, Any]:
        """Apply a do and return its result. If the rules refuse, raise Refusal and change nothing."""

    def undo(self, command: Any) -> Mapping[str, Any]:
        """Reverse everything that the command's gate has here, and return the result."""


OutcomeKey = tuple[UUID, str, int]
C = TypeVar("C", bound=Command)
FENCED = Outcome(False, Fenced().problem())


def is_fenced(problem: Mapping[str, Any] | None) -> bool:
    """Return whether a problem says that a do met a closed gate."""
    return problem is not None and problem.get("type") == f"/problems/{Fenced.slug}"


def key(command: Command) -> OutcomeKey:
    """Return the key under which a command's outcome is stored."""
    return (command.gate, command.type, command.attempt)


def alone(commands: Sequence[C]) -> list[C]:
    """Return the dos whose gate no other command of the batch passes, in their order."""
    count = Counter(command.gate for command in commands)
    return [command for command in commands if not command.undo and count[command.gate] == 1]


@dataclass(slots=True)
class Verdict:
    """The decision on a batch: an outcome for each command, and the new outcomes and closed gates to write."""

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

    `closed`: the gates that are closed. `stored`: the outcomes that earlier batches stored. `do` and `undo` are
    those of the batch. The gate is checked before the stored outcome: after an undo, even a repeat of an applied do is
    refused.
    `past`: gates so old that their outcomes may be deleted. A do on them could be a repeat, so it is refused; an undo
    reverses what is still there.
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
