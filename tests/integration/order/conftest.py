"""Each module has its own database, and serves the participants in its event loop."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.infrastructure.databases import Database
from tests.integration.order.order_service import OrderService, open_order_service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(database: Database) -> AsyncIterator[OrderService]:
    """Serve the participants; yield them with the order service's database."""
    async with open_order_service(database) as service:
        yield service
