"""What operators' sides of services have in common: who acts and why, and results as a person reads them."""

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.http.server import encode
from shared.http.wire import Id, Name, Wire


@dataclass(frozen=True, slots=True)
class Who:
    """Who acts, and why."""

    actor: str
    reason: str


class By(Wire):
    """Who acts, and why."""

    actor: Id
    reason: Name

    def who(self) -> Who:
        """Return who is to be recorded."""
        return Who(self.actor, self.reason)


class Act(By):
    """Who acts, and why; `dry_run` only says what would be done."""

    dry_run: bool = False


def login() -> str:
    """Return who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return f"uid {os.getuid()}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same columns as lines of text."""
    if not rows:
        return "none"
    texts = [[str(name) for name in rows[0]], *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in texts) for column in range(len(texts[0]))]
    lines = ("  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)) for line in texts)
    return "\n".join(line.rstrip() for line in lines)


def cell(value: Any) -> str:
    """Return one value of a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}"
    return encode(value).decode() if isinstance(value, dict | list) else str(value)
