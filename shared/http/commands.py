"""The routes of a participant: taking batches of commands, and telling what became of them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel

from shared.command_desk import CommandDesk
from shared.contracts.commands import COMMANDS_BODY_MAX_BYTES, COMMANDS_PATH, OUTCOMES_PATH, OrderOutcomes, Outcomes
from shared.http.problems import NotFound
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import path_uuid, read_body
from shared.participant import C, Outcome
from shared.postgres import Connection, Pool, Row

UNKNOWN = {"outcome": "unknown"}


def command_route(desk: CommandDesk[C], batch: type[BaseModel], to_command: Callable[[Any], C]) -> Route:
    """Return the route. `to_command` turns one wire command of `batch` into the domain's."""

    async def take_commands(request: web.Request) -> web.Response:
        body: Any = await read_body(request, batch, limit_bytes=COMMANDS_BODY_MAX_BYTES)
        outcomes = await desk.run([to_command(command) for command in body.commands])
        return reply({"outcomes": [UNKNOWN if outcome is None else outcome.wire() for outcome in outcomes]})

    return Route(
        "POST",
        COMMANDS_PATH,
        take_commands,
        "Run a batch of commands: one outcome a command",
        replies={200: Outcomes},
        body=batch,
        tags=("internal",),
    )


def outcomes_route(pool: Pool, read: Callable[[Connection, UUID], Awaitable[Sequence[Row]]]) -> Route:
    """Return the route that tells what is stored of one order, for operators and the audit.

    `read` takes the order's id and returns its gate's `closed` with type, attempt, applied, body and decided_at
    of each stored outcome, or with nulls when the gate has none.
    """

    async def tell_outcomes(request: web.Request) -> web.Response:
        gate = path_uuid(request, "order_id", NotFound)
        async with pool.connection() as db:
            rows = await read(db, gate)
        told = [_told(row) for row in rows if row["type"] is not None]
        return reply({"order_id": gate, "closed": any(row["closed"] for row in rows), "outcomes": told})

    return Route(
        "GET",
        OUTCOMES_PATH,
        tell_outcomes,
        "Tell what became of an order's commands",
        replies={200: OrderOutcomes},
        refusals=(NotFound,),
        tags=("internal",),
    )


def _told(row: Row) -> dict[str, Any]:
    outcome = Outcome(row["applied"], row["body"]).wire()
    return {"type": row["type"], "attempt": row["attempt"], "decided_at": row["decided_at"], **outcome}
