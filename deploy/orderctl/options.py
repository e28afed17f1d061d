"""Options that several commands have, for example --json, and for acts who, why, and whether really."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from deploy.orderctl.platform import has_token

Function = TypeVar("Function", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
key = click.option("--key", help="An idempotency key: a repetition with it has no second effect.")
yes = click.option("--yes", is_flag=True, help="Don't ask for a confirmation.")
limit = click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
wait = click.option("--wait", is_flag=True, help="Wait for its end; exit with 1 unless it is done.")
dry_run = click.option("--dry-run", is_flag=True, help="Only print what would be done.")


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
