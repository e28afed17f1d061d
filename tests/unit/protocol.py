"""Shared by the tests of the participants' rules: gates and outcomes in memory, stored like in the database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from shared.participant.protocol import FENCED, Batch, Command, Outcome, OutcomeKey, decide, key

# Few orders, so that generated commands conflict.
ORDERS = [UUID(int=number) for number in (1, 2, 3)]


@dataclass
class Protocol:
    """The protocol's state of one participant."""

    closed: set[UUID] = field(default_factory=set)
    stored: dict[OutcomeKey, Outcome] = field(default_factory=dict)

    def run(self, commands: Sequence[Command], batch: Batch) -> Sequence[Outcome]:
        """Decide the commands, write the verdict's rows as strictly as the tables would, and return the outcomes."""
        verdict = decide(commands, self.closed, self.stored, batch.do, batch.undo)
        assert not self.stored.keys() & verdict.new_outcomes.keys(), "an outcome is stored once"
        assert not self.closed & verdict.newly_closed, "a gate closes once"
        self.stored |= verdict.new_outcomes
        self.closed |= verdict.newly_closed
        return verdict.outcomes


def assert_repeats_are_answered_alike(
    commands: Sequence[Command], outcomes: Sequence[Outcome], repeated: Sequence[Outcome], closed: set[UUID]
) -> None:
    """Check the outcomes of a repeat: commands undone since then are fenced, all others are as before.

    Of two commands with the same key, the first one's outcome counts, so both get it.
    """
    first: dict[OutcomeKey, Outcome] = {}
    for command, outcome in zip(commands, outcomes, strict=True):
        first.setdefault(key(command), outcome)
    for command, again in zip(commands, repeated, strict=True):
        fenced = command.gate in closed and not command.undo
        assert again == (FENCED if fenced else first[key(command)])
