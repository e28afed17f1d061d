"""One world a module, and the audit as the service runs it."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from services.order.audit.books import BookReader
from services.order.audit.passes import Auditor, Report
from services.order.saga import Participant
from services.order.settings import Settings
from shared.postgres import Pool
from tests.infrastructure.checkout import World, checkout
from tests.infrastructure.databases import Database

Audit = Callable[[], Awaitable[Report]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(database: Database) -> AsyncIterator[World]:
    """The services."""
    async with checkout(database) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(world: World) -> AsyncIterator[Pool]:
    """The order service's own connections."""
    settings = Settings(port=8001, database_url=world.database.as_role("order_service"))
    async with Pool(settings, "order audit") as pool:
        yield pool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auditor(world: World, pool: Pool) -> AsyncIterator[Auditor]:
    """The audit with a grace period of a fifth of a second."""
    async with BookReader({Participant(name): way.url for name, way in world.ways.items()}) as books:
        yield Auditor(pool, books, grace_seconds=0.2)
