"""What is run at night and in a rehearsal, and which of its lines are worth keeping. Standard library only."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace


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


PYTEST_SUMMARY = r"^\d+ passed"  # of a line without the marks that pytest draws around it

DRILLS = Target("drills", r"^\| `.*\| (?:passed|FAILED|skipped)")
RUNBOOK = Target("runbook", rf"blocks of the runbook can't run here|{PYTEST_SUMMARY}")
CONTAINERS = Target(
    "containers", rf"docs/reach.md, .* rows$|replaced the \w+ service: |^SKIPPED .* engine|{PYTEST_SUMMARY}"
)

# Tests that may find a fault run first. Measurements run last, when no other target is running.
TARGETS = (
    Target("faults", r"s later every saga has ended|\d purchases; answers|faults hit", ("SECONDS=300",), seeded=True),
    Target("relay-faults", r"events by .* writers|^read_committed: | times, ", seeded=True),
    Target("points", PYTEST_SUMMARY),
    Target("races", r"^winners: |connections dropped, ", seeded=True),
    Target("versions", r"combinations of versions"),
    Target("rolling", r" calls, \d+ failed"),
    DRILLS,
    Target("drill-failover", r"^\| `.*\| (?:passed|FAILED)"),
    Target("drill-cells", r"^\| `.*\| (?:passed|FAILED|skipped)"),
    Target("test-ha", PYTEST_SUMMARY),
    Target("alert-faults", rf"alerts fired by .* faults|{PYTEST_SUMMARY}"),
    RUNBOOK,
    replace(CONTAINERS, variables=("ALL=yes",)),
    Target("browser", PYTEST_SUMMARY),
    Target("dependency-audit", r"[Nn]o known vulnerabilities|could not be audited|known vulnerabilit"),
    Target("simulate", r"histories from seed ", ("STEPS=2000000",), seeded=True),  # a seed alone means one history
    Target("conformance", r"calls by .* no finding", ("CALLS=50000",), seeded=True),
    Target("mutation", r"^SEED=|\d killed, ", seeded=True),
    Target("bench", r"\((?:at least|at most) .*\) (?:kept|MISSED)|^did not count"),
    Target("bench-relay", r"^missed:|figures is kept|MISSED"),
    Target("bench-auth", r"^a first verification: |^jwt against open"),
    Target("bench-tracing", r"us of CPU per checkout$|^off, "),
    Target("bench-standby", r"^with a standby, "),
    Target("bench-cells", r"^with two (?:product shards|cells behind the router), "),
    Target("bench-console", r"^watched by a console, "),
    Target("bench-overload", r"x the peak: "),
    Target("bench-history", r"^with a past: "),
    Target("bench-gateway", r"slow connections from .* (?:kept|MISSED)"),
)
# What operators do: bring everything up, break it, and repair it.
REHEARSAL = (CONTAINERS, replace(DRILLS, variables=("SHORT=1",)), RUNBOOK)


@dataclass(frozen=True, slots=True)
class Ended:
    """A target that was run; `status` is make's, None if it took too long."""

    target: Target
    seconds: float
    status: int | None
    output: str

    @property
    def passed(self) -> bool:
        """Return whether it ended well and printed figures: without any it did not do its work."""
        return self.status == 0 and bool(self._found)

    @property
    def result(self) -> str:
        """Return how it ended, in a word or two."""
        if self.status == 0 and not self.passed:
            return "FAILED (no figures)"
        return {0: "passed", None: "TOOK TOO LONG"}.get(self.status, f"FAILED ({self.status})")

    @property
    def figures(self) -> list[str]:
        """Return the lines worth keeping; without any, the last line."""
        return self._found or self._lines[-1:]

    @property
    def _lines(self) -> list[str]:
        # Without the line that pytest draws around its summary.
        return [text for line in self.output.splitlines() if (text := line.strip(" \t="))]

    @property
    def _found(self) -> list[str]:
        return [line for line in self._lines if re.search(self.target.figures, line)]


def table(ended: Sequence[Ended]) -> str:
    """Return the results as a table in Markdown."""
    rows = [
        f"| `{one.target.command}` | {one.seconds:,.0f} | {one.result} | {'<br>'.join(map(_cell, one.figures))} |"
        for one in ended
    ]
    return "\n".join(["| target | seconds | result | key figures |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
