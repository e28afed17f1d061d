"""Shared parts of operators' APIs and command lines: who acts and why, arguments, exit statuses and tables."""

import argparse
import os
import pwd
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import Field, ValidationError, create_model

from shared.contracts.types import Id, Name, Wire
from shared.encoding import encode
from shared.http.openapi import OPEN_MODE_ONLY
from shared.http.problems import ValidationFailed
from shared.identity.callers import Caller
from shared.notation import TextInput
from shared.postgres.errors import explain
from shared.process.exits import Exit, end
from shared.refusals import Refusal, Unavailable


@dataclass(frozen=True, slots=True)
class Who:
    """Who acts, and why."""

    actor: str
    reason: str


class By(Wire):
    """Who acts, and why."""

    actor: Annotated[Id | None, Field(json_schema_extra=OPEN_MODE_ONLY)] = None
    reason: Name

    def who(self, caller: Caller) -> Who:
        """Return who is to be recorded: the caller, or in open mode the `actor` of the request."""
        if caller.subject is not None:
            if self.actor is not None:
                raise ValidationFailed([{"pointer": "/actor", "message": "Your token says who you are"}])
            return Who(caller.subject, self.reason)
        if self.actor is None:
            raise ValidationFailed([{"pointer": "/actor", "message": "Field required"}])
        return Who(self.actor, self.reason)


class Act(By):
    """Who acts, and why; `dry_run` only reports what would be done."""

    dry_run: bool = False


def argument(kind: Any) -> Callable[[str], Any]:
    """Return a parser for argparse's `type=` that accepts what the API accepts for a field of this type."""
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
    person = login()
    known = "required, because this user is no person" if person is None else f"default: {person}"
    parser.add_argument(
        "--by", type=argument(Id), default=person, required=person is None, help=f"who; kept in the record ({known})"
    )


def login() -> str | None:
    """Return the login of the person who runs this process, or None if its user is not a single person's.

    That is root, a user without a name, as in containers, and a user who can't log in, as services have. The
    environment is not asked: an image can set USER to anything.
    """
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:
        return None
    is_service = PurePath(user.pw_shell).name in ("nologin", "false", "")
    return None if user.pw_uid == 0 or is_service else user.pw_name


@contextmanager
def command_ends() -> Iterator[None]:
    """Run a command in the body; if it raises, end the process with the status for the error."""
    try:
        yield
    except Refusal as error:
        end(Exit.FAILED, f"{type(error).__name__}: {error}")
    except Unavailable as error:
        end(Exit.FAILED, f"Unavailable: {explain(error)}")
    except KeyboardInterrupt:
        end(Exit.INTERRUPTED, "interrupted")
    except Exception:  # noqa: BLE001 - a bug: the operator gets its trace
        end(Exit.CRASHED, traceback.format_exc().rstrip())


def show(text: str) -> None:
    """Print a command's result. If that fails, exit with OUTPUT_LOST: the command itself is done."""
    try:
        print(text, flush=True)
    except OSError as error:
        # Otherwise Python would try to write the text again at the exit, and change the status.
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
