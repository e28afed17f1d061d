"""What operators' sides of services have in common: who acts and why, and results as a person reads them."""

import argparse
import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError, create_model

from shared.http.server import encode
from shared.http.wire import Id, Name, Wire
from shared.notation import TextInput


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


def argument(kind: Any) -> Callable[[str], Any]:
    """Return a reader of command line arguments, for `type=`: it takes what the API takes for a field of this type."""
    model = create_model("Argument", __base__=TextInput, value=(kind, ...))

    def read(text: str) -> Any:
        try:
            return model.model_validate({"value": text}).model_dump()["value"]
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise argparse.ArgumentTypeError(f"{text!r}: {message}") from None

    return read


def add_who(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every act takes: who, and why."""
    parser.add_argument("--reason", type=argument(Name), required=True, help="why; kept in the record")
    parser.add_argument(
        "--by", type=argument(Id), default=login(), help="who; kept in the record (default: your login)"
    )


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
