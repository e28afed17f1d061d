"""Lists, repairs and audits sagas: the operators' command line of the order service.

It needs ORDER_DATABASE_URL. The audit also needs ORDER_PRODUCT_URL or ORDER_PRODUCT_URLS, ORDER_COUPON_URL and
ORDER_BALANCE_URL.
"""

import argparse
import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from services.order.admin import acts
from services.order.admin.api import AgeSeconds
from services.order.admin.audit_api import Sent, audit_now, repair
from services.order.engine.participants import HttpChannel
from services.order.engine.sharding import participants_of
from services.order.product_shards import shard_of
from services.order.saga import Participant
from services.order.settings import Settings
from shared.encoding import encode
from shared.notation import Uuid
from shared.operators import Who, add_who, argument, cell, command_ends, show, table
from shared.postgres.connections import Pool, Session
from shared.process.exits import Exit
from shared.process.settings import load

Version = Annotated[int, Field(ge=1)]


def main() -> None:
    """Run one command and exit with a status of shared/process/exits.py."""
    arguments = _parser().parse_args()
    settings = load(Settings)
    with command_ends():
        result = asyncio.run(_run(arguments, settings))
        show(encode(result).decode() if arguments.json else _text(result))
    if arguments.command == "drain-status" and any(item["version"] == arguments.version for item in result):
        raise SystemExit(Exit.NOT_DRAINED)
    if arguments.command == "audit" and not result["clean"]:
        raise SystemExit(Exit.NOT_CLEAN)
    if arguments.command == "repair" and any(row.get("outcome", "applied") != "applied" for row in result):
        raise SystemExit(Exit.NOT_CLEAN)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    act = argparse.ArgumentParser(add_help=False)
    add_who(act)
    act.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser = argparse.ArgumentParser(prog="python -m services.order.admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", parents=[common], help="list live sagas, oldest first")
    listing.add_argument("--state", choices=["RUNNING", "COMPENSATING", "stuck"])
    listing.add_argument("--older-than", type=argument(AgeSeconds), default=0, metavar="SECONDS")
    show = commands.add_parser("show", parents=[common], help="show a saga with its timeline and the commands left")
    show.add_argument("id", type=argument(Uuid), help="a saga's or an order's id")
    retry = commands.add_parser("retry", parents=[common, act], help="retry sagas now")
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("id", type=argument(Uuid), nargs="?", help="a saga's or an order's id")
    which.add_argument("--all", action="store_true", help="all live sagas")
    for name, text in {
        "force": "make a RUNNING saga undo what it did; a payment's order is cancelled",
        "resolve": "end a COMPENSATING saga by hand, after its books were corrected by other means",
    }.items():
        command = commands.add_parser(name, parents=[common, act], help=text)
        command.add_argument("id", type=argument(Uuid), help="a saga's or an order's id")
    commands.add_parser("acts", parents=[common], help="list what operators did, newest first")
    commands.add_parser("audit", parents=[common], help="run a pass of the audit now; exit with 4 unless clean")
    repairing = commands.add_parser(
        "repair", parents=[common, act], help="release what the audit finds held without an order"
    )
    repairing.add_argument(
        "--restored",
        type=Participant,
        choices=list(Participant),
        action="append",
        default=[],
        help="send this participant again what it has forgotten, because it was restored to an earlier time; "
        "exit with 4 if it refuses something",
    )
    commands.add_parser("leases", parents=[common], help="list the processes with their leases and live sagas")
    drain = commands.add_parser("drain-status", parents=[common], help="count live sagas by version")
    drain.add_argument("--version", type=argument(Version), help="exit with 3 while this version has live sagas")
    return parser


async def _run(arguments: argparse.Namespace, settings: Settings) -> Any:
    async with Pool(settings, "order admin") as pool:
        if arguments.command == "list":
            return await acts.list_sagas(pool, state=arguments.state, older_than_seconds=arguments.older_than)
        if arguments.command == "show":
            return await acts.show(pool, arguments.id)
        if arguments.command == "acts":
            return await acts.list_acts(pool, 100)
        if arguments.command == "drain-status":
            return await acts.drain_status(pool)
        if arguments.command == "leases":
            return await acts.list_leases(pool)
        if arguments.command == "audit":
            return (await audit_now(settings, pool)).view()
        if arguments.command == "repair":
            return await _repair(arguments, settings, pool)
        return await _act(arguments, settings, pool)


async def _repair(arguments: argparse.Namespace, settings: Settings, pool: Pool) -> list[dict[str, Any]]:
    who = Who(arguments.by, arguments.reason)
    channel = partial(HttpChannel, tls=settings.participants_tls)
    connect = participants_of(settings.product_shards)
    async with connect(settings.participant_urls, channel, credentials=settings.credentials) as participants:
        restored = frozenset(arguments.restored)
        sent = await repair(settings, pool, participants, who, dry_run=arguments.dry_run, restored=restored)
    if arguments.dry_run:
        return [{"would": one.command.type, **_about(one)} for one in sent]
    return [_repaired(one) if restored else {"did": one.command.type, **_about(one)} for one in sent]


def _about(sent: Sent) -> dict[str, Any]:
    """Return what a command of a repair is about."""
    return {"order_id": sent.command.order_id, **shard_of(sent.command)}


def _repaired(sent: Sent) -> dict[str, Any]:
    """Return a command of a repair after a restore: its participant may have refused it."""
    outcome = "applied" if sent.problem is None else str(sent.problem["type"]).rpartition("/")[2]
    return {"did": sent.command.type, **_about(sent), "outcome": outcome}


async def _act(arguments: argparse.Namespace, settings: Settings, pool: Pool) -> list[dict[str, Any]]:
    who = Who(arguments.by, arguments.reason)
    if arguments.command == "retry" and arguments.all:
        ids = [saga["saga_id"] for saga in await acts.list_sagas(pool, state=None, older_than_seconds=0)]
    else:
        saga = await acts.show(pool, arguments.id)
        acts.require(arguments.command, saga)
        ids = [saga["saga_id"]]
    if arguments.dry_run:
        return [{"would": arguments.command, "saga_id": id_} for id_ in ids]
    if arguments.command == "retry":
        ids = await acts.retry(pool, ids, who)
    elif arguments.command == "force":
        ids = [await acts.force(pool, ids[0], who)]
    else:
        async with Session(settings, "order admin") as session:
            ids = [await acts.resolve(pool, session, ids[0], who)]
    return [{"did": arguments.command, "saga_id": id_} for id_ in ids]


def _text(result: Any) -> str:
    if not isinstance(result, Mapping):
        return table(result)
    lines = []
    for name, value in result.items():
        if name in ("timeline", "findings"):
            lines += [f"{name}:", table(value)]
        else:
            lines.append(f"{name}: {cell(value)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
