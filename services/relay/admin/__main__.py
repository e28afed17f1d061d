"""The operators' command line: `python -m services.relay.admin --help`. It reads the relay's settings from the
environment, uses only the database, and works while no relay runs."""

import argparse
import asyncio
from typing import Any

from services.relay.admin import acts
from services.relay.replay import api as replays
from services.relay.replay.api import EventType, Topic
from services.relay.replay.store import Selection
from services.relay.settings import RelaySettings
from shared.encoding import encode
from shared.notation import Timestamp, Uuid
from shared.operators import Who, add_who, argument, command_ends, show, table
from shared.postgres.connections import Pool
from shared.process import logs
from shared.process.settings import load

ACTS_MAX = 100


def main() -> None:
    """Run one command and exit with a status of shared/process/exits.py."""
    arguments = _parser().parse_args()
    settings = load(RelaySettings)
    logs.configure("relay admin", "error", settings.log_format)  # results are printed, not logged
    with command_ends():
        result = asyncio.run(_run(arguments, settings))
        show(encode(result).decode() if arguments.json else table(result))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    by = argparse.ArgumentParser(add_help=False)
    add_who(by)
    act = argparse.ArgumentParser(add_help=False, parents=[by])
    act.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser = argparse.ArgumentParser(prog="python -m services.relay.admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="list parked events by order, in sequence")
    retry = commands.add_parser("retry", parents=[common, act], help="publish an order's parked events again")
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("id", type=argument(Uuid), nargs="?", help="an order's id, or one of its parked events'")
    which.add_argument("--all", action="store_true", help="all parked events")
    for name, text in {
        "skip": "never publish an order's first parked event, and retry the others: consumers see a gap",
        "redact": "remove a parked event's lines, so that Kafka accepts it; publish it with retry",
    }.items():
        command = commands.add_parser(name, parents=[common, act], help=text)
        command.add_argument("id", type=argument(Uuid), help="a parked event's id, or an order's for its first one")
    commands.add_parser("acts", parents=[common], help="list what operators did, newest first")
    _add_replays(commands, common, by)
    return parser


def _add_replays(commands: Any, common: argparse.ArgumentParser, by: argparse.ArgumentParser) -> None:
    replay = commands.add_parser("replay", parents=[common, by], help="publish events again, into a separate topic")
    replay.add_argument(
        "topic", type=argument(Topic), help="target; created if missing; never one of the relay's own topics"
    )
    replay.add_argument("--order", type=argument(Uuid), help="only this order's events")
    replay.add_argument("--type", type=argument(EventType), help="only events of this type, such as order.paid.v1")
    timestamp = argument(Timestamp)
    replay.add_argument("--from", dest="start", type=timestamp, help="only events from this time: 2026-01-31T12:00:00Z")
    replay.add_argument("--to", dest="end", type=timestamp, help="only events before this time")
    commands.add_parser("replays", parents=[common], help="list replays and their progress, newest first")
    for name, text in {
        "cancel": "stop a replay",
        "resume": "continue a replay that was stopped or has failed",
    }.items():
        command = commands.add_parser(name, parents=[common, by], help=text)
        command.add_argument("id", type=argument(Uuid), help="the replay's id")


async def _run(arguments: argparse.Namespace, settings: RelaySettings) -> list[dict[str, Any]]:
    async with Pool(settings, "relay admin") as pool:
        if arguments.command == "list":
            return await acts.list_parked(pool)
        if arguments.command == "acts":
            return await acts.list_acts(pool, ACTS_MAX)
        if arguments.command == "replays":
            return await replays.list_all(pool)
        who = Who(arguments.by, arguments.reason)
        if arguments.command == "replay":
            selection = Selection(arguments.order, arguments.type, arguments.start, arguments.end)
            return [await replays.start(settings, pool, arguments.topic, selection, who)]
        if arguments.command == "cancel":
            return [await replays.cancel(pool, arguments.id, who)]
        if arguments.command == "resume":
            return [await replays.resume(pool, arguments.id, who)]
        if arguments.command == "retry" and arguments.all:
            events = await acts.retry_all(pool, who, dry_run=arguments.dry_run)
        else:
            events = await acts.act(pool, arguments.command, arguments.id, who, dry_run=arguments.dry_run)
    did = "would" if arguments.dry_run else "did"
    return [{did: arguments.command, **event} for event in events]


if __name__ == "__main__":
    main()
