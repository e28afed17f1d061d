"""One world for each module: its own database, the participants served in its event loop."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.infrastructure.databases import Database
from tests.integration.order.world import World, open_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(database: Database) -> AsyncIterator[World]:
    """The participants and the order service's database."""
    async with open_world(database) as world:
        yield world
