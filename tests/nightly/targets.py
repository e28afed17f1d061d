"""What is run at night, and which of its lines are worth keeping. Standard library only."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A target of make with its variables; `figures` finds the lines that go into the table."""

    name: str
    figures: str
    variables: tuple[str, ...] = ()
    seeded: bool = False

    @property
    def command(self) -> str:
        """Return it as a person calls it."""
        return " ".join(["make", self.name, *self.variables])


# In this order: what may find a fault first, what measures last, when nothing else of the night still runs.
TARGETS = (
    Target("faults", r"s later every saga has ended|\d purchases; answers|faults hit", ("SECONDS=300",), seeded=True),
    Target("relay-faults", r"events by .* writers|^read_committed: | times, ", seeded=True),
    Target("races", r"^winners: |connections dropped, ", seeded=True),
    Target("simulate", r"histories from seed ", seeded=True),
    Target("mutation", r"^SEED=|\d killed, ", seeded=True),
    Target("bench", r"\((?:at least|at most) .*\) (?:kept|MISSED)|^did not count"),
    Target("bench-relay", r"^missed:|figures is kept|MISSED"),
    Target("bench-overload", r"x the peak: "),
    Target("bench-history", r"^with a past: "),
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A target that was run; `status` is make's, None if it took too long."""

    target: Target
    seconds: float
    status: int | None
    output: str

    @property
    def result(self) -> str:
        """Return how it ended, in a word or two."""
        return {0: "passed", None: "TOOK TOO LONG"}.get(self.status, f"FAILED ({self.status})")

    @property
    def figures(self) -> list[str]:
        """Return the lines worth keeping; of a target that failed without any, its last line."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        found = [line for line in lines if re.search(self.target.figures, line)]
        return found or ([] if self.status == 0 else lines[-1:])


def table(ended: Sequence[Ended]) -> str:
    """Return the results as a table in Markdown."""
    rows = [
        f"| `{one.target.command}` | {one.seconds:,.0f} | {one.result} | {'<br>'.join(map(_cell, one.figures))} |"
        for one in ended
    ]
    return "\n".join(["| target | seconds | result | key figures |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
