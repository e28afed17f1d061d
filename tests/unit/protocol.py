"""What the tests of the participants' rules share: gates and outcomes kept in memory, as the database keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from shared.participant.protocol import FENCED, Command, Outcome, OutcomeKey, Verdict, key

# Few, so that generated commands meet.
ORDERS = [UUID(int=number) for number in (1, 2, 3)]


@dataclass
class Protocol:
    """The protocol's state of one participant."""

    closed: set[UUID] = field(default_factory=set)
    stored: dict[OutcomeKey, Outcome] = field(default_factory=dict)

    def write(self, verdict: Verdict) -> Sequence[Outcome]:
        """Write what the verdict says is new, as strictly as the tables would, and return the outcomes."""
        assert not self.stored.keys() & verdict.new_outcomes.keys(), "an outcome is stored once"
        assert not self.closed & verdict.newly_closed, "a gate closes once"
        self.stored |= verdict.new_outcomes
        self.closed |= verdict.newly_closed
        return verdict.outcomes


def assert_repeats_are_answered_alike(
    commands: Sequence[Command], outcomes: Sequence[Outcome], repeated: Sequence[Outcome], closed: set[UUID]
) -> None:
    """Check the answers to a repeat: what was undone meanwhile is fenced, everything else is as before.

    Of two commands of one key the first was answered, so that is what both get.
    """
    first: dict[OutcomeKey, Outcome] = {}
    for command, outcome in zip(commands, outcomes, strict=True):
        first.setdefault(key(command), outcome)
    for command, again in zip(commands, repeated, strict=True):
        fenced = command.gate in closed and not command.undo
        assert again == (FENCED if fenced else first[key(command)])
