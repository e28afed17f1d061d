"""Lines of Markdown: tables, code, and texts that are not wider than a document may be."""

import re
from collections.abc import Iterator, Sequence

NOTE = "<!-- `make reference` writes this page from the code. -->"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["|" + "|".join(f" {text} " if (text := escaped(cell)) else " " for cell in line) + "|" for line in lines]


def escaped(cell: str) -> str:
    """Return the text of a cell on one line."""
    return " ".join(cell.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Return a text as code."""
    return f"`{text}`"


def sentence(text: str) -> str:
    """Return a text with a capital first letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}".removesuffix(".") + "."


def wrapped(text: str, width: int = 118) -> Iterator[str]:
    """Yield a text in lines that are not too long. No line begins like an item of a list."""
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width and not re.fullmatch(r"[-*+]|\d+\.", word):
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def item(text: str) -> Iterator[str]:
    """Yield the lines of an item of a list."""
    for number, line in enumerate(wrapped(text)):
        yield f"{'  ' if number else '- '}{line}"
