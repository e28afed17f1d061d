"""`orderctl sagas`: the checkouts that are under way, and the acts on them."""

import click

from deploy.orderctl import calls
from deploy.orderctl.acts import Acts
from deploy.orderctl.merging import ask_owner, items, moment, show_merged
from deploy.orderctl.options import as_json, cells
from deploy.orderctl.output import show_one
from deploy.orderctl.places import Cells
from shared.process.exits import Exit

LIVE = ("saga_id", "order_id", "kind", "status", "stuck", "attempt", "age_seconds")
TIMELINE = ("at", "step", "outcome", "detail")
ACTS = ("at", "actor", "act", "order_id", "reason")
LEASES = ("process_id", "lease_until", "held", "live", "oldest")
VERSIONS = ("version", "live", "oldest", "known")
of_cells = cells(calls.ORDER)


@click.group()
def sagas() -> None:
    """Sagas that are under way: list, show, retry, force, resolve."""


@sagas.command("list")
@click.option("--state", type=click.Choice(["RUNNING", "COMPENSATING", "stuck"]))
@click.option("--older-than", type=click.FloatRange(min=0), metavar="SECONDS")
@of_cells
@as_json
def list_(state: str | None, older_than: float | None, cells: Cells, as_json: bool) -> None:
    """List live sagas, oldest first."""
    show_merged(
        *(cells, items(calls.SAGAS, state=state, older_than_seconds=older_than), LIVE),
        key=lambda saga: moment(saga["started_at"]),
        as_json=as_json,
    )


@sagas.command()
@click.argument("id_", metavar="ID")
@of_cells
@as_json
def show(id_: str, cells: Cells, as_json: bool) -> None:
    """Show a saga with its timeline and the commands left, by its id or its order's."""
    found, cell = ask_owner(cells, lambda platform: platform.admin(calls.SAGA, id_=id_))
    show_one(cell | dict(found.members), {"timeline": TIMELINE}, as_json=as_json)


_ACTS = Acts(
    sagas,
    calls.ON_A_SAGA,
    calls.RETRY_SAGAS,
    calls.SAGA,
    ("saga_id",),
    lambda done: [{"saga_id": saga_id} for saga_id in done["sagas"]],
)
_ACTS.add_retry("Retry a saga now, or all of them.", "All live sagas.")
_ACTS.add_confirmed("force", "Make a RUNNING saga undo what it did.", "Undo saga {id}? A payment's order is cancelled.")
_ACTS.add_confirmed(
    "resolve",
    "End a COMPENSATING saga by hand, after its books were corrected by other means.",
    "End saga {id} without its undos? You are responsible for the books.",
)
_ACTS.add_list(calls.SAGA_ACTS, "List what operators did to sagas, newest first.", ACTS)


@sagas.command()
@of_cells
@as_json
def leases(cells: Cells, as_json: bool) -> None:
    """List the processes with their leases and live sagas."""
    show_merged(
        *(cells, items(calls.LEASES), LEASES),
        key=lambda lease: (not lease["held"], lease["process_id"]),
        as_json=as_json,
    )


@sagas.command()
@click.option("--version", type=click.IntRange(min=1), help="Exit with 3 while this version has live sagas.")
@of_cells
@as_json
def versions(version: int | None, cells: Cells, as_json: bool) -> None:
    """Count live sagas by version."""
    found = show_merged(*(cells, items(calls.VERSIONS), VERSIONS), key=lambda item: item["version"], as_json=as_json)
    if any(item["version"] == version for item in found):
        raise SystemExit(Exit.NOT_DRAINED)
