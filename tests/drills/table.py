"""The rows of the drills' table, and the table in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

HEADINGS = ("drill", "what happens", "seconds to recover", "requests", "failed", "lost orders", "audit", "result")
BEGIN, END = "<!-- drills: begin -->", "<!-- drills: end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """What a drill showed. `wrong` says what the drill does not allow; `skipped`, why it can't run here.

    `figures`: what this drill measures beside the usual.
    """

    drill: str
    what: str
    recovered_seconds: float = 0.0
    requests: int = 0
    failed: int = 0
    lost: int = 0
    audit: str = ""
    wrong: tuple[str, ...] = ()
    skipped: str = ""
    figures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Return whether the drill showed what it must; a skipped one shows nothing."""
        return not self.wrong and not self.skipped

    @property
    def result(self) -> str:
        """Return the last cell."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        result = "FAILED" if self.wrong else "passed"
        said = "; ".join((*self.wrong, *self.figures))
        return f"{result}: {said}" if said else result

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the row's cells."""
        figures = ("", "", "", "", "")
        if not self.skipped:
            counts = (f"{self.requests:,}", f"{self.failed:,}", f"{self.lost:,}", self.audit)
            figures = (f"{self.recovered_seconds:.1f}", *counts)
        return (f"`{self.drill}`", self.what, *figures, self.result)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [HEADINGS, ("---", "---", "--:", "--:", "--:", "--:", "---", "---"), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def replaced(page: str, content: str) -> str:
    """Return a page in which what stands between the marks is replaced."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"
