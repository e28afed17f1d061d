"""`python -m deploy.slots`: moves slots from one cell to another, over the databases of both."""

import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
import psycopg

from deploy.slots import moving
from deploy.slots.databases import Cell, RefusedError, connected
from deploy.slots.tables import SERVICES, Moved
from shared.notation import parse_timestamp
from shared.process.exits import Exit, end
from shared.slots import OLDER, Ownership, parse_slots

NAME = "slots"
SETTINGS = """\b
Settings, from the environment. Each address is of the service's migrator:
  FROM_ORDER_DATABASE_URL    the old cell; also FROM_COUPON_…, FROM_BALANCE_…
  TO_ORDER_DATABASE_URL      the new cell; also TO_COUPON_…, TO_BALANCE_…
  CELL_SLOTS_SINCE           as in all services

\b
Exit statuses: 0 done; 1 refused, or a database can't be reached; 2 a wrong argument or
setting; 130 Ctrl-C. After 1 and 130, run the same command again, or `cancel`.
"""


class MisconfiguredError(Exception):
    """A setting is missing or wrong."""


def _moved(words: Sequence[str]) -> Moved:
    try:
        since = parse_timestamp(os.environ["CELL_SLOTS_SINCE"])
        slots = parse_slots(words)
    except KeyError:
        raise MisconfiguredError("CELL_SLOTS_SINCE is not set") from None
    except ValueError as error:
        raise MisconfiguredError(str(error)) from None
    if OLDER in words:
        raise MisconfiguredError(f"{OLDER} is no slot: those orders can't move")
    if not slots:
        raise MisconfiguredError("name at least one slot")
    return Moved(slots, Ownership.of(words, since).since)


@contextmanager
def _cells(*, alone: bool = True) -> Iterator[tuple[Cell, Cell]]:
    urls = {}
    for name in ("FROM", "TO"):
        settings = {service.name: f"{name}_{service.name.upper()}_DATABASE_URL" for service in SERVICES}
        if missing := [setting for setting in settings.values() if not os.environ.get(setting)]:
            raise MisconfiguredError(f"not set: {', '.join(missing)}")
        urls[name] = {service: os.environ[setting] for service, setting in settings.items()}
    with (
        connected("from", urls["FROM"], alone=alone) as source,
        connected("to", urls["TO"], alone=alone) as target,
    ):
        yield source, target


slots_argument = click.argument("slots", nargs=-1, required=True, metavar="SLOTS...")


@click.group(NAME, epilog=SETTINGS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def slots() -> None:
    """Move slots from one cell to another.

    SLOTS are numbers and ranges as in CELL_SLOTS, such as 3143 or 2048-3071. All of them move together.
    """


@slots.command()
@slots_argument
def prepare(slots: Sequence[str]) -> None:
    """Let the new cell refuse the slots, before you give them to it in CELL_SLOTS."""
    moved = _moved(slots)
    with _cells() as (source, target):
        moving.prepare(source, target, moved, click.echo)
    click.echo("Prepared. Now add the slots to CELL_SLOTS of the new cell, then run `move`.")


@slots.command()
@slots_argument
@click.option(
    "--wait", default=60.0, show_default=True, help="Seconds to wait until sagas end and events are published."
)
def move(slots: Sequence[str], wait: float) -> None:
    """Move slots to the new cell, or go on with a move that was cut off."""
    moved = _moved(slots)
    with _cells() as (source, target):
        moving.move(source, target, moved, wait, click.echo)
    click.echo("Moved. Now reload the router's map, then change CELL_SLOTS in the old cell, then run `delete`.")


@slots.command()
@slots_argument
def cancel(slots: Sequence[str]) -> None:
    """Give a move up that has not handed over yet: the slots are open again in the old cell."""
    moved = _moved(slots)
    with _cells() as (source, target):
        moving.cancel(source, target, moved, click.echo)
    click.echo("Cancelled. The old cell has the slots.")


@slots.command()
@slots_argument
def delete(slots: Sequence[str]) -> None:
    """Delete the rows in the old cell, once no process there has the slots in CELL_SLOTS."""
    moved = _moved(slots)
    with _cells() as (source, target):
        moving.delete_moved(source, target, moved, click.echo)


@slots.command()
@slots_argument
def status(slots: Sequence[str]) -> None:
    """Show in which state the slots are in both cells, also while they move."""
    moved = _moved(slots)
    with _cells(alone=False) as (source, target):
        for name, cell in (("old", source), ("new", target)):
            states = {service.name: cell.each_state(service, moved) for service in SERVICES}
            alike: dict[str, list[int]] = {}
            for slot in sorted(moved.slots):
                text = ", ".join(f"{service}: {each[slot] or 'open'}" for service, each in states.items())
                alike.setdefault(text, []).append(slot)
            for text, found in alike.items():
                click.echo(f"{' '.join(Ownership(frozenset(found), older=False).words)} in the {name} cell: {text}")


def main(words: Sequence[str] | None = None) -> None:
    """Run one command, by default the process's, and exit with a status of shared/process/exits.py."""
    try:
        slots.main(words, prog_name=NAME, standalone_mode=False)
        raise SystemExit(Exit.DONE)
    except click.Abort:
        end(Exit.INTERRUPTED, "interrupted")
    except KeyboardInterrupt:
        end(Exit.INTERRUPTED, "interrupted")
    except (click.UsageError, MisconfiguredError) as error:
        text = error.format_message() if isinstance(error, click.UsageError) else str(error)
        end(Exit.MISCONFIGURED, f"{NAME}: {text}")
    except (RefusedError, psycopg.OperationalError) as error:
        end(Exit.FAILED, " ".join(str(error).split()))
    except Exception:  # noqa: BLE001 - a bug, or what the database refuses: the operator gets its trace
        end(Exit.CRASHED, traceback.format_exc().rstrip())


if __name__ == "__main__":
    main()
