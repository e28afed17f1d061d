"""What operators' sides of services have in common: who acts and why, and results as a person reads them."""

import argparse
import getpass
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError, create_model

from shared.contracts.types import Id, Name, Wire
from shared.encoding import encode
from shared.exits import Exit, end
from shared.notation import TextInput
from shared.postgres import explain
from shared.refusals import Refusal, Unavailable


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


@contextmanager
def command_ends() -> Iterator[None]:
    """Run a command line's work in the body, and end the process with the status for what it raises."""
    try:
        yield
    except Refusal as error:
        end(Exit.FAILED, f"{type(error).__name__}: {error}")
    except Unavailable as error:
        end(Exit.FAILED, f"Unavailable: {explain(error)}")
    except KeyboardInterrupt:
        end(Exit.INTERRUPTED, "interrupted")
    except Exception:  # noqa: BLE001 - a bug, which the person at the command line gets with its trace
        end(Exit.CRASHED, traceback.format_exc().rstrip())


def show(text: str) -> None:
    """Print a command's result. Exits if that can't be done: what the command was to do is done."""
    try:
        print(text, flush=True)
    except OSError as error:
        # What could not be written would be written at the exit once more, and change the status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        end(Exit.OUTPUT_LOST, f"the result could not be written: {error.strerror}")


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
