"""The balance service, served once for each module that tests it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client, migrate_service, serving


@pytest.fixture(scope="module")
def database_url(database: Database) -> str:
    """Return the address of the migrated schema, with the service's own role."""
    return migrate_service("balance", database)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def balance(database_url: str) -> AsyncIterator[Client]:
    """Yield a client of the service."""
    async with serving("balance", database_url) as client:
        yield client
