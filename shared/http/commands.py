"""The route on which a participant takes batches of commands."""

from collections.abc import Callable
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from shared.command_desk import CommandDesk
from shared.contracts.commands import COMMANDS_BODY_MAX_BYTES, COMMANDS_PATH, Outcomes
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import read_body
from shared.participant import C

UNKNOWN = {"outcome": "unknown"}


def command_route(desk: CommandDesk[C], batch: type[BaseModel], understand: Callable[[Any], C]) -> Route:
    """Return the route. `understand` turns one wire command of `batch` into the domain's."""

    async def take_commands(request: web.Request) -> web.Response:
        body: Any = await read_body(request, batch, limit_bytes=COMMANDS_BODY_MAX_BYTES)
        outcomes = await desk.run([understand(command) for command in body.commands])
        return reply({"outcomes": [UNKNOWN if outcome is None else outcome.wire() for outcome in outcomes]})

    return Route(
        "POST",
        COMMANDS_PATH,
        take_commands,
        "Run a batch of commands: one transaction, one outcome a command",
        replies={200: Outcomes},
        body=batch,
        tags=("internal",),
    )
