"""Mutants that survive and may: each was looked at, and is as good as the original."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Judged:
    """A line of a function, as it is, and as the mutant has it; `why` it makes no difference that a test should see.

    An empty `after` stands for all mutants of the line.
    """

    path: str
    function: str
    before: str
    after: str
    why: str


JUDGED: tuple[Judged, ...] = ()
