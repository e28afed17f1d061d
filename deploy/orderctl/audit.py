"""`orderctl audit` and `orderctl repair`: whether the books agree, and what gives orphans back."""

import sys
from contextlib import nullcontext
from typing import get_args

import click
from rich.console import Console

from deploy.orderctl import calls
from deploy.orderctl.options import act, actor, as_json, dry_run
from deploy.orderctl.output import show_json, show_rows, write
from deploy.orderctl.plain import has_colour
from deploy.orderctl.platform import LONG_CALL, ask
from deploy.orderctl.verdict import Commands, verdict
from shared.process.exits import Exit

REFUSED = ("order_id", "type", "detail")
COMMANDS = Commands("orderctl audit --json", 'orderctl repair --reason "why" --dry-run')


@click.command()
@as_json
def audit(as_json: bool) -> None:
    """Compare every order with all books; exit with 4 unless they agree."""
    with Console(stderr=True).status("comparing every order with the books") if sys.stderr.isatty() else nullcontext():
        report = ask(lambda platform: platform.admin(calls.AUDIT), LONG_CALL).members
    if as_json:
        show_json(report)
    else:
        write(verdict(report, COMMANDS, colour=has_colour()))
    if not report["clean"]:
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
