"""Texts of values and tables: for pipes as they are, and for terminals as a base. Needs the standard library only."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_GREEN, _RED, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"


def cell(value: Any) -> str:
    """Return one value on one line, without what would control a terminal."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping | list | tuple) else str(value)
    return printable(text)


def printable(text: str) -> str:
    """Return a text on one line, without what would control a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def sign(*, good: bool, colour: bool) -> str:
    """Return the sign before a result."""
    text = "✓" if good else "✗"
    return f"{_GREEN if good else _RED}{text}{_PLAIN}" if colour else text


def has_colour() -> bool:
    """Return whether the output may have colours: a person reads it, who has not switched them off."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as aligned lines of text under the columns' names."""
    texts = [list(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[column]) for line in texts) for column in range(len(columns))]
    lines = ("  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)) for line in texts)
    return "\n".join(line.rstrip() for line in lines)
