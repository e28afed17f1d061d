"""A module's tests share one checkout, and the service's audit."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from services.order.audit.books import BookReader
from services.order.audit.passes import Auditor, Report
from services.order.saga import Participant
from services.order.settings import Settings
from shared.postgres.connections import Pool
from tests.infrastructure.checkout import Checkout, serving_checkout
from tests.infrastructure.databases import Database

Audit = Callable[[], Awaitable[Report]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checkout(database: Database) -> AsyncIterator[Checkout]:
    """Serve the services."""
    async with serving_checkout(database) as checkout:
        yield checkout


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(checkout: Checkout) -> AsyncIterator[Pool]:
    """Return a pool with the order service's role."""
    settings = Settings(port=8001, database_url=checkout.database.as_role("order_service"))
    async with Pool(settings, "order audit") as pool:
        yield pool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auditor(checkout: Checkout, pool: Pool) -> AsyncIterator[Auditor]:
    """Return an auditor with a grace period of a fifth of a second."""
    async with BookReader({Participant(name): way.url for name, way in checkout.ways.items()}) as books:
        yield Auditor(pool, books, grace_seconds=0.2)
