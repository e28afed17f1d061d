"""The order service, its side for operators and its participants in the test's own event loop, a proxy on each way."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from tests.infrastructure.databases import Database
from tests.infrastructure.proxy import Proxy
from tests.infrastructure.services import Client, migrate_service, serving
from tests.infrastructure.stack import Shop
from tests.infrastructure.waiting import eventually, free_port

PARTICIPANTS = ("product", "coupon", "balance")
# Short, so that a test sees what takes its time in production; the audit runs when a test asks for it.
SETTINGS: Mapping[str, Any] = {
    "lease_seconds": 2,
    "sweep_interval_seconds": 0.1,
    "expiry_interval_seconds": 0.1,
    "request_deadline_seconds": 5,
    "audit_interval_seconds": 3600,
    "audit_grace_seconds": 0.2,
}


@dataclass(frozen=True, slots=True)
class World:
    """What serves, and the ways between."""

    database: Database
    db: asyncpg.Pool
    shop: Shop
    admin: Client
    ways: Mapping[str, Proxy]
    urls: Mapping[str, str]

    async def value(self, query: str, *arguments: Any) -> Any:
        """A value from the database, asked as its superuser."""
        return await self.db.fetchval(query, *arguments)

    async def settled(self, seconds: float = 30) -> None:
        """Wait until no saga is live."""

        async def none_is_live() -> bool:
            query = "SELECT count(*) FROM orders.sagas WHERE status IN ('RUNNING', 'COMPENSATING')"
            return bool(await self.value(query) == 0)

        await eventually(none_is_live, seconds, "the end of all sagas")


@dataclass(frozen=True, slots=True)
class Participants:
    """The three participants, the ways to them, and the order service's settings that lead over these."""

    clients: Mapping[str, Client]
    ways: Mapping[str, Proxy]
    urls: Mapping[str, str]


@asynccontextmanager
async def participants(database: Database) -> AsyncIterator[Participants]:
    """Migrate the module's database and serve the three participants on it."""
    async with AsyncExitStack() as stack:
        # Reading the files of migrations and running them holds the loop up, and nothing else runs yet.
        for name in ("order", *PARTICIPANTS):
            await asyncio.to_thread(migrate_service, name, database)
        clients: dict[str, Client] = {}
        ways: dict[str, Proxy] = {}
        for name in PARTICIPANTS:
            clients[name] = await stack.enter_async_context(serving(name, database.as_role(f"{name}_service")))
            port = urlsplit(clients[name].url).port
            assert port is not None
            ways[name] = await stack.enter_async_context(Proxy("127.0.0.1", port))
        yield Participants(clients, ways, {f"{name}_url": way.url for name, way in ways.items()})


@asynccontextmanager
async def ordering(database: Database, others: Participants, **settings: Any) -> AsyncIterator[World]:
    """Serve the order service beside its participants; enter it again for another build or replica."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        admin_port = free_port()
        url = {"database_url": database.as_role("order_service")}
        settings = {**SETTINGS, **others.urls, **url, "admin_port": admin_port, **settings}
        order = await enter(serving("order", **settings))
        admin = f"http://127.0.0.1:{admin_port}"
        session = await enter(aiohttp.ClientSession(admin))
        shop = Shop(order=order, relay=Client(session, admin), **others.clients)  # no relay runs, and none is asked
        db = await enter(asyncpg.create_pool(database.url, min_size=0, max_size=4))
        yield World(database, db, shop, Client(session, admin), others.ways, others.urls)


@asynccontextmanager
async def checkout(database: Database, **settings: Any) -> AsyncIterator[World]:
    """Serve all four on the module's database."""
    async with participants(database) as others, ordering(database, others, **settings) as world:
        yield world
