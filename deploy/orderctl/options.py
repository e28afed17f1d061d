"""Options that several commands have: --json, --cell, and for acts who, why, and whether really."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from deploy.orderctl.places import CELLS, Cells
from deploy.orderctl.platform import has_token

Function = TypeVar("Function", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
key = click.option("--key", help="An idempotency key: a repetition with it has no second effect.")
yes = click.option("--yes", is_flag=True, help="Don't ask for a confirmation.")
limit = click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
wait = click.option("--wait", is_flag=True, help="Wait for its end; exit with 1 unless it is done.")
dry_run = click.option("--dry-run", is_flag=True, help="Only print what would be done.")


WHICH = {
    "product": "A product shard",
    "order": "A cell's order service",
    "coupon": "A cell's coupon service",
    "order-admin": "The operators' listener of a cell's order service",
    "relay-admin": "The operators' listener of a cell's relay",
}


def cells(listener: str, more: str = "Name all of them.") -> Callable[[Function], Function]:
    """Add --cell, or --shard for the product service. The command gets Cells, of this listener."""

    def checked(_context: click.Context, _option: click.Parameter, urls: tuple[str, ...]) -> Cells:
        found = Cells(listener, urls)
        found.check()
        return found

    return click.option(
        f"--{Cells(listener).word}",
        "cells",
        multiple=True,
        envvar=CELLS[listener],
        show_envvar=True,
        metavar="URL",
        callback=checked,
        help=f"{WHICH[listener]}. {more}",
    )


def act(function: Function) -> Function:
    """Add who acts, and why."""
    reason = click.option("--reason", required=True, help="Why; kept in the record.")
    by = click.option("--by", envvar="ORDERCTL_BY", show_envvar=True, help="Who; kept in the record. A token says it.")
    return by(reason(function))


def actor(by: str | None) -> str | None:
    """Return who is to be sent as the actor: nobody with a token, because it says who acts."""
    if has_token():
        return None
    if by is None:
        raise click.UsageError("Missing option '--by' (or ORDERCTL_BY): without a token, nobody knows who you are.")
    return by
