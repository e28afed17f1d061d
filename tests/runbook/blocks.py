"""Finds the commands of the runbook: fenced blocks of `sh`, each with what a comment before it says about its run.

A comment has the form `<!-- run: WORD REST -->`, directly before the block:

    not here: REASON    the block needs what tests don't have
    by PATH             another test executes it
    after SITUATION     what has gone wrong before (situations.py)
    output TEXT         the output must contain this
    exit N or M         the exit status, by default 0
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = (
    REPOSITORY / "docs" / "runbook.md",
    REPOSITORY / "docs" / "failover.md",
    *sorted((REPOSITORY / "docs" / "runbook").glob("*.md")),
)
FENCE = re.compile(
    r"(?P<comment>(?:^ *<!-- run: .*? -->\n)*)^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<code>.*?)^ *```$",
    re.M | re.S,
)
COMMENT = re.compile(r"<!-- run: (not here:|by|after|output|exit) (.*?) -->")
HEADING = re.compile(r"^#{2,} (.*)$", re.M)


@dataclass(frozen=True, slots=True)
class Block:
    """The commands of one block, and what must hold for their run."""

    page: str
    section: str
    number: int
    language: str
    code: str
    not_here: str = ""
    by: str = ""
    after: str = ""
    output: str = ""
    statuses: tuple[int, ...] = (0,)

    @property
    def runs_here(self) -> bool:
        """Return whether the runbook's own test executes it."""
        return not self.not_here and not self.by

    @property
    def name(self) -> str:
        """Return its place."""
        return f"{self.page}: {self.section}, block {self.number}"


def blocks(page: str, text: str) -> Iterator[Block]:
    """Return the blocks of a page, in order."""
    headings = [(match.start(), match[1]) for match in HEADING.finditer(text)]
    counted: dict[str, int] = {}
    for match in FENCE.finditer(text):
        if match["language"] not in ("sh", "sql"):
            continue
        section = next((title for at, title in reversed(headings) if at < match.start()), "")
        counted[section] = counted.get(section, 0) + 1
        said = {word.rstrip(":"): rest for word, rest in COMMENT.findall(match["comment"])}
        yield Block(
            page,
            section,
            counted[section],
            match["language"],
            textwrap.dedent(match["code"]),
            said.get("not here", ""),
            said.get("by", ""),
            said.get("after", ""),
            said.get("output", ""),
            tuple(map(int, said.get("exit", "0").split(" or "))),
        )


def all_blocks() -> Sequence[Block]:
    """Return the blocks of all pages."""
    return [block for page in PAGES for block in blocks(page.name, page.read_text())]


def blocks_by(test: str) -> Sequence[Block]:
    """Return the blocks that another test executes, in order. `test`: its path."""
    return [block for block in all_blocks() if block.by == test]


def sections() -> dict[str, list[Block]]:
    """Return the sections that have a block to run, by page and heading."""
    found: dict[str, list[Block]] = {}
    for block in all_blocks():
        if block.runs_here:
            found.setdefault(f"{block.page}: {block.section}", []).append(block)
    return found
