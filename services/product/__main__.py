"""Composition root of the product service: settings → session, pool → command desk, routes → server."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from uuid import UUID

from services.product import store
from services.product.api import ProductApi
from services.product.batch import execute, fast_path, to_command
from services.product.settings import Settings
from shared.background import background
from shared.command_desk import CommandDesk
from shared.contracts.commands import ProductCommands
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
        pool = await stack.enter_async_context(Pool(settings, "product"))
        session = await stack.enter_async_context(Session(settings, "product commands"))
        desk = await stack.enter_async_context(CommandDesk(session, execute, fast_path))
        readiness = await stack.enter_async_context(Session(settings, "product readiness", checked=True))
        checks = database_checks(readiness, store.ready, HostClock())

        api = ProductApi(pool, settings.currency, settings.client_timeout_seconds)
        routes = [
            *api.routes(),
            command_route(desk, ProductCommands, to_command),
            outcomes_route(pool, store.read_order_outcomes),
            *book_routes(pool, store.list_holds, store.check_books),
        ]
        description = "Products, their prices and their stock."
        pruner = Pruner(
            pool,
            [Pruning("gates", UUID(int=0), store.GATES.prune_gates)],
            partial(store.GATES.raise_horizon, days=settings.retention_days),
        )
        async with background("pruner", pruner.run):
            await HttpServer("product", description, settings, routes, checks).run(stop)


if __name__ == "__main__":
    main(Service("product", Settings, "products", Path(__file__).parent / "migrations", serve))
