"""Prints results: JSON for scripts, aligned text for pipes, tables and colour for terminals."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.orderctl import plain
from shared.process.exits import Exit, end

STYLES: Mapping[str, str] = {
    **dict.fromkeys(("PAID", "DONE", "AVAILABLE", "applied", "clean"), "green"),
    **dict.fromkeys(("PENDING_PAYMENT", "PLACING", "PAYING", "RUNNING", "RESERVED"), "yellow"),
    **dict.fromkeys(("COMPENSATING", "REJECTED", "FAILED", "refused"), "red"),
    **dict.fromkeys(("EXPIRED", "CANCELLED", "REFUNDED", "COMPENSATED"), "dim"),
}


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print a list: as JSON with all members, otherwise the given columns."""
    if as_json:
        show_json(rows)
    elif not rows:
        write("none")
    elif is_terminal():
        _draw(_table(rows, columns))
    else:
        write(plain.table(rows, columns))


def show_one(members: Mapping[str, Any], lists: Mapping[str, Sequence[str]] | None = None, *, as_json: bool) -> None:
    """Print one object: as JSON, or a line for each member. `lists`: members that are tables, and their columns."""
    if as_json:
        show_json(members)
        return
    tables = lists or {}
    for name, value in members.items():
        if name in tables:
            continue
        if is_terminal():
            _draw(Text.assemble((f"{name}: ", "bold"), _cell(value)))
        else:
            write(f"{name}: {plain.cell(value)}")
    for name, columns in tables.items():
        write(f"{name}:")
        show_rows(members[name], columns, as_json=False)


def show_json(result: Any) -> None:
    """Print JSON on one line."""
    write(json.dumps(result, ensure_ascii=False, default=str))


def write(text: str) -> None:
    """Print a result. If that fails, exit with OUTPUT_LOST: the command itself is done."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # a terminal may know few letters
    try:
        print(text, flush=True)
    except OSError as error:
        lost(error)


def lost(error: OSError) -> None:
    """Exit, because the result can't be written."""
    # Otherwise Python would try to write the text again at the exit, and change the status.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    end(Exit.OUTPUT_LOST, f"the result could not be written: {error.strerror}")


def is_terminal() -> bool:
    """Return whether a person reads the result."""
    return sys.stdout.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Ask the person at the terminal. A script is not asked: what it says is meant."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not click.confirm(question, err=True):
        end(Exit.FAILED, "nothing was done")


def _draw(what: Table | Text) -> None:
    try:
        Console(highlight=False, markup=False, emoji=False).print(what)
    except OSError as error:
        lost(error)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        numbers = all(isinstance(row.get(column), int | float | None) for row in rows)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(_cell(row.get(column)) for column in columns))
    return drawn


def _cell(value: Any) -> Text:
    text = plain.cell(value)
    return Text(text, style=STYLES.get(text, ""))
