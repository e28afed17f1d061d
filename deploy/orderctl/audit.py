"""`orderctl audit` and `orderctl repair`: whether the books agree, and what gives orphans back."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, get_args

import click
from rich.console import Console

from deploy.orderctl import calls
from deploy.orderctl.cells import disagreements, verdicts
from deploy.orderctl.options import act, actor, as_json, dry_run
from deploy.orderctl.output import show_json, show_rows, write
from deploy.orderctl.places import MisconfiguredError
from deploy.orderctl.plain import has_colour
from deploy.orderctl.platform import LONG_CALL, Platform, ask
from deploy.orderctl.verdict import Commands, verdict
from shared.process.exits import Exit

REFUSED = ("order_id", "type", "detail")
COMMANDS = Commands("orderctl audit --json", 'orderctl repair --reason "why" --dry-run')


@click.command()
@click.option(
    "--cell",
    "cells",
    multiple=True,
    envvar="ORDERCTL_CELLS",
    metavar="URL",
    help="The operators' listener of a cell's order service. Name all cells: they must divide all slots.",
)
@as_json
def audit(cells: tuple[str, ...], as_json: bool) -> None:
    """Compare every order with all books; exit with 4 unless they agree."""
    if cells:
        _audit_cells(cells, as_json)
        return
    with Console(stderr=True).status("comparing every order with the books") if sys.stderr.isatty() else nullcontext():
        report = ask(lambda platform: platform.admin(calls.AUDIT), LONG_CALL).members
    if as_json:
        show_json(report)
    else:
        write(verdict(report, COMMANDS, colour=has_colour()))
    if not report["clean"]:
        raise SystemExit(Exit.NOT_CLEAN)


def _audit_cells(cells: tuple[str, ...], as_json: bool) -> None:
    async def reports(platform: Platform) -> dict[str, Mapping[str, Any]]:
        found = [platform.at(calls.ORDER, url).admin(calls.AUDIT) for url in cells]
        return {url: report.members for url, report in zip(cells, await asyncio.gather(*found), strict=True)}

    for url in cells:
        if not url.startswith(("http://", "https://")):
            raise MisconfiguredError(f"a cell's address must begin with http:// or https:// (got {url!r})")
    found = ask(reports, LONG_CALL)
    wrong = disagreements(found)
    clean = not wrong and all(report["clean"] for report in found.values())
    if as_json:
        show_json({"clean": clean, "slots": wrong, "cells": [{"url": url, **report} for url, report in found.items()]})
    else:
        write(verdicts(found, wrong, COMMANDS, colour=has_colour()))
    if not clean:
        raise SystemExit(Exit.NOT_CLEAN)


@click.command()
@click.option(
    "--restored",
    type=click.Choice(get_args(calls.Participant)),
    multiple=True,
    help="Send this participant again what it has forgotten, because it was restored to an earlier time.",
)
@act
@dry_run
@as_json
def repair(restored: tuple[calls.Participant, ...], reason: str, by: str | None, dry_run: bool, as_json: bool) -> None:
    """Give back what is held without an order.

    Exit with 4 if a participant refuses something.
    """
    body = calls.Repair(actor=actor(by), reason=reason, dry_run=dry_run, restored=list(restored))
    done = ask(lambda platform: platform.admin(calls.REPAIR, body=body), LONG_CALL).members
    if as_json:
        show_json(done)
    else:
        did = "would" if done["dry_run"] else "did"
        rows = [{did: one["type"], "order_id": one["order_id"]} for one in done["commands"]]
        show_rows(rows, (did, "order_id"), as_json=False)
        if done["refused"]:
            write("refused:")
            show_rows(done["refused"], REFUSED, as_json=False)
    if done["refused"]:
        raise SystemExit(Exit.NOT_CLEAN)
