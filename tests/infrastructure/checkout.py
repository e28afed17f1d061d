"""The order service, its operators' API and its participants in the test's event loop, with a proxy between each."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest

from services.order.engine import participants as calls_to_participants
from services.order.engine import runner
from tests.infrastructure.databases import Database
from tests.infrastructure.proxy import Proxy
from tests.infrastructure.sagas import sagas_ended
from tests.infrastructure.services import Client, migrate_service, serving
from tests.infrastructure.stack import Shop
from tests.infrastructure.waiting import free_port

PARTICIPANTS = ("product", "coupon", "balance")
# Short, so that a test need not wait as long as production; the audit runs only at a test's request.
SETTINGS: Mapping[str, Any] = {
    "lease_seconds": 2,
    "sweep_interval_seconds": 0.1,
    "expiry_interval_seconds": 0.1,
    "request_deadline_seconds": 5,
    "audit_interval_seconds": 3600,
    "audit_grace_seconds": 0.2,
}


@dataclass(frozen=True, slots=True)
class Checkout:
    """The order service, its operators' API and its participants; `ways` are the proxies between them."""

    database: Database
    db: asyncpg.Pool
    shop: Shop
    admin: Client
    ways: Mapping[str, Proxy]
    urls: Mapping[str, str]

    async def value(self, query: str, *arguments: Any) -> Any:
        """Return a value from the database, as its superuser."""
        return await self.db.fetchval(query, *arguments)

    async def until_idle(self, seconds: float = 30) -> None:
        """Wait until no saga is live."""
        await sagas_ended(self.db, seconds)


@dataclass(frozen=True, slots=True)
class Participants:
    """The three participants, the proxies to them, and the order service's settings for these proxies."""

    clients: Mapping[str, Client]
    ways: Mapping[str, Proxy]
    urls: Mapping[str, str]


@asynccontextmanager
async def participants(database: Database) -> AsyncIterator[Participants]:
    """Migrate the module's database and serve the three participants on it."""
    async with AsyncExitStack() as stack:
        # The migrations block the event loop, but nothing else runs yet.
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
async def ordering(database: Database, others: Participants, **settings: Any) -> AsyncIterator[Checkout]:
    """Serve the order service with its participants; enter it again for another build or replica."""
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
        yield Checkout(database, db, shop, Client(session, admin), others.ways, others.urls)


@asynccontextmanager
async def serving_checkout(database: Database, **settings: Any) -> AsyncIterator[Checkout]:
    """Serve all four on the module's database."""
    async with participants(database) as others, ordering(database, others, **settings) as checkout:
        yield checkout


@asynccontextmanager
async def serving_impatient_checkout(database: Database) -> AsyncIterator[Checkout]:
    """Serve the same with short time limits.

    A client waits for its saga so briefly that a blocked one gets 202. After fractions of a second, a command counts as
    unknown and a saga as stuck.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls_to_participants, "CALL_TIMEOUT_SECONDS", 0.5)
        patch.setattr(runner, "BACKOFF_MAX_SECONDS", 0.2)
        async with serving_checkout(database, request_deadline_seconds=0.4) as checkout:
            yield checkout
