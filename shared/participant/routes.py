"""The internal routes of a participant: commands, stored outcomes, holds and books."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from aiohttp import web
from prometheus_client import Counter
from pydantic import BaseModel

from shared.contracts.books import BOOKS_PATH, BOOKS_SECONDS, HOLDS_PATH, Books, HoldsPage, HoldsQuery
from shared.contracts.commands import (
    COMMANDS_BODY_MAX_BYTES,
    COMMANDS_PATH,
    OUTCOMES_PATH,
    OrderOutcomes,
    Outcomes,
    UnknownCommand,
)
from shared.encoding import to_json
from shared.http.callers import caller
from shared.http.problems import NotFound
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import path_uuid, read_body, read_query
from shared.identity.callers import AUDIT, INTERNAL, Forbidden
from shared.participant.executor import CommandExecutor
from shared.participant.protocol import C, Outcome
from shared.postgres.connections import Connection, Pool, Row
from shared.slots import Ownership

log = structlog.get_logger()

UNKNOWN = {"outcome": "unknown"}
UNKNOWN_KIND = {
    **UNKNOWN,
    "problem": {"detail": "The participant does not know commands of this kind. Its version is probably older."},
}
FOREIGN = {
    **UNKNOWN,
    "problem": {"detail": "The command is about what another shard owns. The addresses of the shards are mixed up."},
}
# Without the kind, which a later version chooses.
UNKNOWN_KINDS = Counter("commands_of_unknown_kind_total", "Commands whose kind only a later version knows")
KIND_LOGGED_CHARACTERS = 64
ReadHolds = Callable[[Connection, UUID, UUID, int], Awaitable[Sequence[Row | Mapping[str, Any]]]]
# The same for the orders of a cell only. The last order that was read is returned too, or the greatest id.
ReadOwnHolds = Callable[
    [Connection, UUID, UUID, int, Ownership], Awaitable[tuple[Sequence[Row | Mapping[str, Any]], UUID]]
]
CheckBooks = Callable[[Connection], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Foreign:
    """Stands for a command that another shard must get."""

    type: str


_SKIPPED = (UnknownCommand, Foreign)


def command_route(
    executor: CommandExecutor[C],
    batch: type[BaseModel],
    to_command: Callable[[Any], C],
    is_foreign: Callable[[Any], bool] | None = None,
) -> Route:
    """Return the route that runs batches of commands.

    `batch`: the wire model of the request. `to_command` converts one of its commands to the domain's. `is_foreign`: for
    one of several shards, whether a command is about what another one owns. Its outcome is unknown: a refusal would
    reject an order because of a wrong setting.
    """

    async def take_commands(request: web.Request) -> web.Response:
        if caller(request).subject == AUDIT:
            raise Forbidden("commands")
        body: Any = await read_body(request, batch, limit_bytes=COMMANDS_BODY_MAX_BYTES)
        commands = body.commands
        if is_foreign is not None:
            commands = [Foreign(one.type) if is_foreign(one) else one for one in commands]
        known = [to_command(command) for command in commands if type(command) not in _SKIPPED]
        outcomes = [_wire(outcome) for outcome in await executor.run(known)] if known else []
        return reply({"outcomes": _with_skipped(commands, outcomes)})

    return Route(
        "POST",
        COMMANDS_PATH,
        INTERNAL,
        take_commands,
        "Run a batch of commands: one outcome a command",
        replies={200: Outcomes},
        refusals=(Forbidden,),
        body=batch,
        tags=("internal",),
    )


def outcomes_route(pool: Pool, read: Callable[[Connection, UUID], Awaitable[Sequence[Row]]]) -> Route:
    """Return the route that shows the stored outcomes of one order, for operators and the audit.

    `read` takes the order's id and returns its gate's `closed` with type, attempt, applied, body and decided_at
    of each stored outcome, or with nulls when the gate has none.
    """

    async def show_outcomes(request: web.Request) -> web.Response:
        gate = path_uuid(request, "order_id", NotFound)
        async with pool.connection() as db:
            rows = await read(db, gate)
        stored = [_stored(row) for row in rows if row["type"] is not None]
        return reply({"order_id": gate, "closed": any(row["closed"] for row in rows), "outcomes": stored})

    return Route(
        "GET",
        OUTCOMES_PATH,
        INTERNAL,
        show_outcomes,
        "Tell what became of an order's commands",
        replies={200: OrderOutcomes},
        refusals=(NotFound,),
        tags=("internal",),
    )


def book_routes(
    pool: Pool, confirm: str, read_holds: ReadHolds, check: CheckBooks, read_own_holds: ReadOwnHolds | None = None
) -> list[Route]:
    """Return the routes on which the audit reads holds and books.

    `confirm`: the query for Pool.confirmed: the audit reports what is held elsewhere and not here.
    `read_holds` takes `after` (exclusive), `until` (inclusive) and a limit, and returns order_id and holds of
    that many orders in order of id. `check` returns the participant's own checks and totals as Books. `read_own_holds`
    is only for a participant that several cells share.
    """

    async def show_holds(request: web.Request) -> web.Response:
        query = read_query(request, HoldsQuery)
        after, until = query.bounds()
        async with pool.confirmed(confirm) as db:
            if read_own_holds is not None and query.ownership is not None:
                rows, last = await read_own_holds(db, after, until, query.limit, query.ownership)
                return reply({"items": [dict(row) for row in rows], "until": last})
            rows = await read_holds(db, after, until, query.limit)
        return reply({"items": [dict(row) for row in rows]})

    async def show_books(_request: web.Request) -> web.Response:
        # One snapshot for all checks: totals that change while they are added up would not agree.
        async with pool.connection() as db, db.transaction(isolation="repeatable_read", readonly=True):
            books = await check(db)
        return reply(to_json(books))

    tags = ("internal",)
    return [
        Route(
            "GET",
            HOLDS_PATH,
            INTERNAL,
            show_holds,
            "What is held for which order",
            {200: HoldsPage},
            query=HoldsQuery,
            tags=tags,
        ),
        Route(
            "GET",
            BOOKS_PATH,
            INTERNAL,
            show_books,
            "Whether the books add up",
            {200: Books},
            tags=tags,
            deadline_seconds=BOOKS_SECONDS,
        ),
    ]


def book_check(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return one check as Books shows it. Each row breaks the rule and says in `violations` how many do."""
    examples = [{key: value for key, value in row.items() if key != "violations"} for row in rows]
    return {"name": name, "violations": rows[0]["violations"] if rows else 0, "examples": examples}


def _wire(outcome: Outcome | None) -> Mapping[str, Any]:
    return UNKNOWN if outcome is None else outcome.wire()


def _with_skipped(commands: Sequence[Any], outcomes: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return an outcome for each command, given those of the commands that were run."""
    if len(outcomes) == len(commands):
        return outcomes
    unknown = [command.type for command in commands if isinstance(command, UnknownCommand)]
    if unknown:
        UNKNOWN_KINDS.inc(len(unknown))
        log.warning("command.kind_unknown", count=len(unknown), type=unknown[0][:KIND_LOGGED_CHARACTERS])
    if foreign := sum(isinstance(command, Foreign) for command in commands):
        log.warning("command.misdirected", count=foreign)
    known = iter(outcomes)
    skipped = {UnknownCommand: UNKNOWN_KIND, Foreign: FOREIGN}
    return [skipped.get(type(command)) or next(known) for command in commands]


def _stored(row: Row) -> dict[str, Any]:
    outcome = Outcome(row["applied"], row["body"]).wire()
    return {"type": row["type"], "attempt": row["attempt"], "decided_at": row["decided_at"], **outcome}
