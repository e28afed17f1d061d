"""`orderctl outbox` and `orderctl replays`: parked events, and events that are published again."""

import asyncio
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from deploy.orderctl import calls
from deploy.orderctl.acts import Acts
from deploy.orderctl.options import act, actor, as_json, wait
from deploy.orderctl.output import show_one, show_rows
from deploy.orderctl.platform import PATIENT, Platform, ask
from shared.process.exits import Exit

PARKED = ("order_id", "sequence", "type", "first", "event_id", "parked_at", "parked_reason")
CONCERNED = ("order_id", "sequence", "type", "event_id")
ACTS = ("at", "actor", "act", "order_id", "event_id", "reason")
REPLAYS = ("replay_id", "topic", "state", "events", "created_at", "actor", "reason")
LOOK_SECONDS = 0.5  # a relay copies some thousand events in this time


@click.group()
def outbox() -> None:
    """Parked events, which Kafka refused: list, retry, skip, redact."""


@outbox.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List parked events by order, in sequence."""
    show_rows(ask(lambda platform: platform.admin(calls.PARKED))["items"], PARKED, as_json=as_json)


_ACTS = Acts(outbox, calls.ON_AN_EVENT, calls.RETRY_PARKED, CONCERNED, lambda done: done["events"])
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


@outbox.command()
@as_json
def acts(as_json: bool) -> None:
    """List what operators did to parked events, newest first."""
    show_rows(ask(lambda platform: platform.admin(calls.PARKED_ACTS))["items"], ACTS, as_json=as_json)


@click.group()
def replays() -> None:
    """Events published again, elsewhere: list, start, cancel, resume."""


@replays.command("list")
@as_json
def list_replays(as_json: bool) -> None:
    """List replays, newest first."""
    show_rows(ask(lambda platform: platform.admin(calls.REPLAYS))["items"], REPLAYS, as_json=as_json)


@replays.command()
@click.argument("id_", metavar="ID")
@wait
@as_json
def show(id_: str, wait: bool, as_json: bool) -> None:
    """Show a replay, and how far it is."""
    _show(ask(lambda platform: platform.admin(calls.REPLAY, id_=id_)), wait=wait, as_json=as_json)


@replays.command()
@click.argument("topic")
@click.option("--order", type=click.UUID, help="Only this order's events.")
@click.option("--type", "type_", type=click.Choice(get_args(calls.EventType)), help="Only events of this type.")
@click.option("--from", "start_", metavar="TIME", help="Only events from this time: 2026-01-31T12:00:00Z.")
@click.option("--to", "end", metavar="TIME", help="Only events before this time.")
@wait
@act
@as_json
def start(topic: str, start_: str | None, end: str | None, reason: str, by: str | None, **options: Any) -> None:
    """Publish events again, into a topic that is not one of the relay's own."""
    body = calls.NewReplay(
        actor=actor(by),
        reason=reason,
        topic=topic,
        order_id=options["order"],
        type=options["type_"],
        start=_time(start_),
        end=_time(end),
    )
    begun = ask(lambda platform: platform.admin(calls.START_REPLAY, body=body))
    _show(begun, wait=options["wait"], as_json=options["as_json"])


@replays.command()
@click.argument("id_", metavar="ID")
@act
@as_json
def cancel(id_: str, reason: str, by: str | None, as_json: bool) -> None:
    """Stop a replay."""
    body = calls.By(actor=actor(by), reason=reason)
    show_one(
        ask(lambda platform: platform.admin(calls.ON_A_REPLAY["cancel"], body=body, id_=id_)).members, as_json=as_json
    )


@replays.command()
@click.argument("id_", metavar="ID")
@wait
@act
@as_json
def resume(id_: str, wait: bool, reason: str, by: str | None, as_json: bool) -> None:
    """Continue a replay that was stopped or has failed."""
    body = calls.By(actor=actor(by), reason=reason)
    resumed = ask(lambda platform: platform.admin(calls.ON_A_REPLAY["resume"], body=body, id_=id_))
    _show(resumed, wait=wait, as_json=as_json)


def _time(text: str | None) -> datetime | None:
    """Return a time that has an offset. Raises UsageError."""
    if text is None:
        return None
    with suppress(ValueError):
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time
    raise click.UsageError(f"{text!r} is not a time with an offset, such as 2026-01-31T12:00:00Z.")


def _show(replay: calls.Raw, *, wait: bool, as_json: bool) -> None:
    if wait and replay["state"] == "RUNNING":
        replay = ask(lambda platform: _to_its_end(platform, replay), PATIENT)
    show_one(replay.members, as_json=as_json)
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
