"""`orderctl outbox` and `orderctl replays`: parked events, and events that are published again."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from deploy.orderctl import calls
from deploy.orderctl.acts import Acts
from deploy.orderctl.merging import Question, ask_owner, items, moment, show_merged
from deploy.orderctl.options import act, actor, as_json, cells, wait
from deploy.orderctl.output import show_one
from deploy.orderctl.places import Cells
from deploy.orderctl.platform import PATIENT, Platform
from shared.process.exits import Exit

PARKED = ("order_id", "sequence", "type", "first", "event_id", "parked_at", "parked_reason")
CONCERNED = ("order_id", "sequence", "type", "event_id")
ACTS = ("at", "actor", "act", "order_id", "event_id", "reason")
REPLAYS = ("replay_id", "topic", "state", "events", "created_at", "actor", "reason")
of_cells = cells(calls.RELAY)
LOOK_SECONDS = 0.5  # a relay copies some thousand events in this time


@click.group()
def outbox() -> None:
    """Parked events, which Kafka refused: list, retry, skip, redact."""


@outbox.command("list")
@of_cells
@as_json
def list_(cells: Cells, as_json: bool) -> None:
    """List parked events by order, in sequence."""
    show_merged(
        *(cells, items(calls.PARKED), PARKED),
        key=lambda event: (event["order_id"], event["sequence"]),
        as_json=as_json,
    )


_ACTS = Acts(
    outbox,
    calls.ON_AN_EVENT,
    calls.RETRY_PARKED,
    calls.ON_AN_EVENT["retry"],
    CONCERNED,
    lambda done: done["events"],
)
_ACTS.add_retry(
    "Publish an order's parked events again, or all of them. ID: an order's, or a parked event's.", "All parked events."
)
_ACTS.add_confirmed(
    "skip",
    "Never publish an order's first parked event, and retry the others.",
    "Never publish event {id}? Consumers see a gap.",
)
_ACTS.add_confirmed(
    "redact",
    "Remove a parked event's lines, so that Kafka accepts it; publish it with retry.",
    "Remove the lines of event {id}? They can't be restored.",
)
_ACTS.add_list(calls.PARKED_ACTS, "List what operators did to parked events, newest first.", ACTS)


@click.group()
def replays() -> None:
    """Events published again, elsewhere: list, start, cancel, resume."""


@replays.command("list")
@of_cells
@as_json
def list_replays(cells: Cells, as_json: bool) -> None:
    """List replays, newest first."""
    show_merged(
        *(cells, items(calls.REPLAYS), REPLAYS),
        key=lambda replay: moment(replay["created_at"]),
        newest_first=True,
        as_json=as_json,
    )


@replays.command()
@click.argument("id_", metavar="ID")
@wait
@of_cells
@as_json
def show(id_: str, wait: bool, cells: Cells, as_json: bool) -> None:
    """Show a replay, and how far it is."""
    found, cell = ask_owner(cells, _replay(id_))
    _show(found, cell, wait=wait, as_json=as_json)


@replays.command()
@click.argument("topic")
@click.option("--order", type=click.UUID, help="Only this order's events.")
@click.option("--type", "type_", type=click.Choice(get_args(calls.EventType)), help="Only events of this type.")
@click.option("--from", "start_", metavar="TIME", help="Only events from this time: 2026-01-31T12:00:00Z.")
@click.option("--to", "end", metavar="TIME", help="Only events before this time.")
@wait
@act
@cells(calls.RELAY, "Name one: a replay is of one cell.")
@as_json
def start(topic: str, start_: str | None, end: str | None, reason: str, by: str | None, **options: Any) -> None:
    """Publish events again, into a topic that is not one of the relay's own."""
    cells: Cells = options["cells"]
    if len(cells.urls) > 1:
        raise click.UsageError("Name one cell: the relay of each cell publishes its own events only.")
    body = calls.NewReplay(
        actor=actor(by),
        reason=reason,
        topic=topic,
        order_id=options["order"],
        type=options["type_"],
        start=_time(start_),
        end=_time(end),
    )
    begun, cell = ask_owner(cells, lambda platform: platform.admin(calls.START_REPLAY, body=body))
    _show(begun, cell, wait=options["wait"], as_json=options["as_json"])


@replays.command()
@click.argument("id_", metavar="ID")
@act
@of_cells
@as_json
def cancel(id_: str, reason: str, by: str | None, cells: Cells, as_json: bool) -> None:
    """Stop a replay."""
    done, cell = _acted("cancel", id_, calls.By(actor=actor(by), reason=reason), cells)
    show_one(cell | dict(done.members), as_json=as_json)


@replays.command()
@click.argument("id_", metavar="ID")
@wait
@act
@of_cells
@as_json
def resume(id_: str, wait: bool, reason: str, by: str | None, cells: Cells, as_json: bool) -> None:
    """Continue a replay that was stopped or has failed."""
    resumed, cell = _acted("resume", id_, calls.By(actor=actor(by), reason=reason), cells)
    _show(resumed, cell, wait=wait, as_json=as_json)


def _replay(id_: str) -> Question[calls.Raw]:
    return lambda platform: platform.admin(calls.REPLAY, id_=id_)


def _acted(name: str, id_: str, body: calls.By, cells: Cells) -> tuple[calls.Raw, dict[str, str]]:
    call = calls.ON_A_REPLAY[name]
    return ask_owner(cells, _replay(id_), lambda platform: platform.admin(call, body=body, id_=id_))


def _time(text: str | None) -> datetime | None:
    """Return a time that has an offset. Raises UsageError."""
    if text is None:
        return None
    with suppress(ValueError):
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time
    raise click.UsageError(f"{text!r} is not a time with an offset, such as 2026-01-31T12:00:00Z.")


def _show(replay: calls.Raw, cell: Mapping[str, str], *, wait: bool, as_json: bool) -> None:
    if wait and replay["state"] == "RUNNING":
        of = Cells(calls.RELAY, tuple(cell.values()))
        replay, _ = ask_owner(of, lambda platform: _to_its_end(platform, replay), policy=PATIENT)
    show_one({**cell, **replay.members}, as_json=as_json)
    if wait and replay["state"] != "DONE":
        raise SystemExit(Exit.FAILED)


async def _to_its_end(platform: Platform, replay: calls.Raw) -> calls.Raw:
    """Look at a replay until it has ended, and show on a terminal how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    first = replay["position"]
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("events", total=max(1, replay["up_to"] - first))
        while replay["state"] == "RUNNING":
            await asyncio.sleep(LOOK_SECONDS)
            replay = await platform.admin(calls.REPLAY, id_=replay["replay_id"])
            progress.update(task, completed=replay["position"] - first, description=f"{replay['events']:,} events")
    return replay
