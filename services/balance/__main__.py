"""Composition root of the balance service: settings → session, pool → command desk, routes → server."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from uuid import UUID

from services.balance import store
from services.balance.api import BalanceApi
from services.balance.batch import execute, fast_path, to_command
from services.balance.settings import Settings
from shared.background import background
from shared.command_desk import CommandDesk
from shared.contracts.commands import BalanceCommands
from shared.host_clock import HostClock, database_checks
from shared.http.books import book_routes
from shared.http.commands import command_route, outcomes_route
from shared.http.server import HttpServer
from shared.postgres import Pool, Session
from shared.process import Service, main
from shared.pruning import Pruner, Pruning


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until `stop` is set; what was opened last is closed first."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(Pool(settings, "balance"))
        session = await stack.enter_async_context(Session(settings, "balance commands"))
        desk = await stack.enter_async_context(CommandDesk(session, execute, fast_path))
        readiness = await stack.enter_async_context(Session(settings, "balance readiness", checked=True))
        checks = database_checks(readiness, store.ready, HostClock())

        api = BalanceApi(pool, settings.currency, settings.client_timeout_seconds)
        routes = [
            *api.routes(),
            command_route(desk, BalanceCommands, to_command),
            outcomes_route(pool, store.read_order_outcomes),
            *book_routes(pool, store.list_holds, store.check_books),
        ]
        description = "Prepaid accounts and their ledger."
        pruner = Pruner(
            pool,
            [Pruning("gates", UUID(int=0), store.GATES.prune_gates)],
            partial(store.GATES.raise_horizon, days=settings.retention_days),
        )
        async with background("pruner", pruner.run):
            await HttpServer("balance", description, settings, routes, checks).run(stop)


if __name__ == "__main__":
    main(Service("balance", Settings, "balances", Path(__file__).parent / "migrations", serve))
