"""Assembles and runs a participant's service: session → executor, pool → routes and pruner, routes → server."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic
from uuid import UUID

from pydantic import BaseModel

from shared.http.listeners import listeners
from shared.http.readiness import database_checks
from shared.http.routes import Route
from shared.identity.modes import authenticator
from shared.participant.executor import CommandExecutor, Execute, FastPath
from shared.participant.gates import Gates
from shared.participant.protocol import C
from shared.participant.routes import CheckBooks, ReadHolds, ReadOwnHolds, book_routes, command_route, outcomes_route
from shared.postgres.clocks import HostClock
from shared.postgres.connections import Pool, Session
from shared.process.settings import ParticipantSettings
from shared.process.stopping import Stop
from shared.process.tasks import background
from shared.pruning import Pruner, Pruning


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant(Generic[C]):
    """What one participant has of its own.

    `commands`, `to_command`: the wire model of a batch, and the conversion of one of its commands. `execute`,
    `fast_path`: how a batch is run. `read_holds`, `check_books`, `read_own_holds`: what the audit reads.
    `routes` returns the public routes. `is_foreign` returns, for one of several shards, what says whether a command is
    about what another one owns.
    """

    name: str
    description: str
    commands: type[BaseModel]
    to_command: Callable[[Any], C]
    execute: Execute[C]
    fast_path: FastPath[C]
    gates: Gates
    read_holds: ReadHolds
    check_books: CheckBooks
    routes: Callable[[Pool, ParticipantSettings], Sequence[Route]]
    read_own_holds: ReadOwnHolds | None = None
    is_foreign: Callable[[Any], Callable[[Any], bool] | None] = lambda _settings: None


async def serve_participant(participant: Participant[C], settings: ParticipantSettings, stop: Stop) -> None:
    """Run a participant's service until `stop` is set; close in the reverse order of opening."""
    name, gates = participant.name, participant.gates
    async with AsyncExitStack() as stack:
        identity = await stack.enter_async_context(authenticator(settings))
        pool = await stack.enter_async_context(Pool(settings, name))
        session = await stack.enter_async_context(Session(settings, f"{name} commands"))
        executor = await stack.enter_async_context(CommandExecutor(session, participant.execute, participant.fast_path))
        readiness = await stack.enter_async_context(Session(settings, f"{name} readiness", checked=True))
        checks = database_checks(readiness, gates.sql, HostClock())
        routes = [
            *participant.routes(pool, settings),
            command_route(executor, participant.commands, participant.to_command, participant.is_foreign(settings)),
            outcomes_route(pool, gates.read_gate_outcomes),
            *book_routes(
                pool,
                gates.sql["confirm_reads"],
                participant.read_holds,
                participant.check_books,
                participant.read_own_holds,
            ),
        ]
        pruner = Pruner(
            pool,
            [Pruning("gates", UUID(int=0), gates.prune_gates)],
            partial(gates.raise_horizon, days=settings.retention_days),
        )
        async with background("pruner", pruner.run):
            servers = listeners(name, participant.description, settings, identity, routes, checks)
            await asyncio.gather(*(server.run(stop) for server in servers))
