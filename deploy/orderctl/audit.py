"""`orderctl audit` and `orderctl repair`: whether the books agree, and what gives orphans back."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import click
from rich.console import Console

from deploy.orderctl import calls
from deploy.orderctl.cells import disagreements, together, verdicts
from deploy.orderctl.merging import Answers, ask_all
from deploy.orderctl.options import act, actor, as_json, cells, dry_run
from deploy.orderctl.output import show_json, show_rows, write
from deploy.orderctl.places import Cells
from deploy.orderctl.plain import has_colour
from deploy.orderctl.platform import LONG_CALL, Platform, ask
from deploy.orderctl.verdict import Commands, verdict
from shared.encoding import to_json
from shared.process.exits import Exit, end

REFUSED = ("order_id", "type", "detail")
COMMANDS = Commands("orderctl audit --json", 'orderctl repair --reason "why" --dry-run')


@click.command()
@cells(calls.ORDER, "Name all cells: they must divide all slots.")
@as_json
def audit(cells: Cells, as_json: bool) -> None:
    """Compare every order with all books; exit with 4 unless they agree."""
    if cells.urls:
        _audit_cells(cells, as_json)
        return
    with _status():
        report = ask(lambda platform: platform.admin(calls.AUDIT), LONG_CALL).members
    if as_json:
        show_json(report)
    else:
        write(verdict(report, COMMANDS, colour=has_colour()))
    if not report["clean"]:
        raise SystemExit(Exit.NOT_CLEAN)


def _audit_cells(cells: Cells, as_json: bool) -> None:
    with _status():
        answers = ask_all(cells, _report, LONG_CALL)
    found, failed = answers.found, answers.failed
    # Without the report of each cell, nobody knows whether a slot is of no cell.
    wrong = [] if failed else disagreements(found)
    whole = together(found)
    clean = not wrong and not failed and bool(whole["clean"])
    if as_json:
        of_cells = [{"url": url, **report} for url, report in found.items()]
        show_json(
            {
                "clean": clean,
                "slots": wrong,
                "together": to_json(whole),
                "cells": of_cells,
                "failed": answers.complaints,
            }
        )
    elif found:
        write(verdicts(found, wrong, COMMANDS, colour=has_colour()))
    if wrong or not whole["clean"]:
        end(Exit.NOT_CLEAN, *answers.complaints)
    answers.require_all()


async def _report(platform: Platform) -> Mapping[str, Any]:
    return (await platform.admin(calls.AUDIT)).members


def _status() -> AbstractContextManager[object]:
    if not sys.stderr.isatty():
        return nullcontext()
    return Console(stderr=True).status("comparing every order with the books")


@click.command()
@click.option(
    "--restored",
    type=click.Choice(get_args(calls.Participant)),
    multiple=True,
    help="Send this participant again what it has forgotten, because it was restored to an earlier time.",
)
@act
@dry_run
@cells(calls.ORDER, "Name all cells: none is repaired unless they divide all slots.")
@as_json
def repair(
    restored: tuple[calls.Participant, ...],
    reason: str,
    by: str | None,
    dry_run: bool,
    cells: Cells,
    as_json: bool,
) -> None:
    """Give back what is held without an order.

    Exit with 4 if a participant refuses something.
    """
    body = calls.Repair(actor=actor(by), reason=reason, dry_run=dry_run, restored=list(restored))

    async def repaired(platform: Platform) -> Mapping[str, Any]:
        return (await platform.admin(calls.REPAIR, body=body)).members

    if cells.urls:
        _check_division(cells)
        answers = ask_all(cells, repaired, LONG_CALL)
    else:
        answers = Answers({"": ask(repaired, LONG_CALL)}, {})
    if as_json:
        shown = [{"url": url, **done} for url, done in answers.found.items()]
        show_json(shown if cells.urls else answers.found[""])
    else:
        _show_repairs(answers.found, ("cell",) if cells.urls else (), did="would" if dry_run else "did")
    if any(done["refused"] for done in answers.found.values()):
        end(Exit.NOT_CLEAN, *answers.complaints)
    answers.require_all()


def _check_division(cells: Cells) -> None:
    """Exit unless all cells answer and divide all slots: otherwise they would take each other's holds for orphans."""
    answers = ask_all(cells, _report, LONG_CALL)
    answers.require_all()
    if wrong := disagreements(answers.found):
        end(Exit.NOT_CLEAN, "nothing was repaired. Correct CELL_SLOTS of the cells first:", *wrong)


def _show_repairs(done: Mapping[str, Mapping[str, Any]], first: tuple[str, ...], *, did: str) -> None:
    sent = [
        {"cell": url, did: command["type"], "order_id": command["order_id"]}
        for url, one in done.items()
        for command in one["commands"]
    ]
    show_rows(sent, (*first, did, "order_id"), as_json=False)
    if refused := [{"cell": url, **problem} for url, one in done.items() for problem in one["refused"]]:
        write("refused:")
        show_rows(refused, (*first, *REFUSED), as_json=False)
