"""The operators' command line: `python -m services.relay.admin --help`. It takes the relay's settings from the
environment, asks the database only, and works while no relay does."""

import argparse
import asyncio
import sys
from typing import Any
from uuid import UUID

from services.relay.admin import acts
from services.relay.settings import RelaySettings
from shared import logs
from shared.http.server import encode
from shared.operators import Who, login, table
from shared.postgres import Pool
from shared.refusals import Refusal, Unavailable
from shared.settings import load

ACTS_MAX = 100


def main() -> None:
    """Run one command. Exit status: 0 done, 1 refused or out of reach."""
    arguments = _parser().parse_args()
    settings = load(RelaySettings)
    logs.configure("relay admin", "error", settings.log_format)  # what was done is printed
    try:
        result = asyncio.run(_run(arguments, settings))
    except (Refusal, Unavailable) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(encode(result).decode() if arguments.json else table(result))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    act = argparse.ArgumentParser(add_help=False)
    act.add_argument("--reason", required=True, help="why; kept in the record")
    act.add_argument("--by", default=login(), help="who; kept in the record (default: your login)")
    act.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser = argparse.ArgumentParser(prog="python -m services.relay.admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="list parked events, order by order in sequence")
    retry = commands.add_parser("retry", parents=[common, act], help="give an order's parked events back")
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("id", type=UUID, nargs="?", help="an order's id, or one of its parked events'")
    which.add_argument("--all", action="store_true", help="all parked events")
    for name, text in {
        "skip": "give an order's first parked event up for good, and the others back: consumers see a gap",
        "redact": "leave a parked event's lines out, so that Kafka takes it; retry brings it out",
    }.items():
        command = commands.add_parser(name, parents=[common, act], help=text)
        command.add_argument("id", type=UUID, help="a parked event's id, or an order's for its first one")
    commands.add_parser("acts", parents=[common], help="list what operators did, newest first")
    return parser


async def _run(arguments: argparse.Namespace, settings: RelaySettings) -> list[dict[str, Any]]:
    async with Pool(settings, "relay admin") as pool:
        if arguments.command == "list":
            return await acts.list_parked(pool)
        if arguments.command == "acts":
            return await acts.list_acts(pool, ACTS_MAX)
        who = Who(arguments.by, arguments.reason)
        if arguments.command == "retry" and arguments.all:
            events = await acts.retry_all(pool, who, dry_run=arguments.dry_run)
        else:
            events = await acts.act(pool, arguments.command, arguments.id, who, dry_run=arguments.dry_run)
    did = "would" if arguments.dry_run else "did"
    return [{did: arguments.command, **event} for event in events]


if __name__ == "__main__":
    main()
