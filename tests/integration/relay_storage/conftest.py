"""A fresh outbox for each test, because tests add and drop partitions."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.services import migrate_service
from tests.integration.relay_storage.outbox import Outbox, connected


@pytest.fixture
def fresh(postgres_server: str) -> Iterator[Database]:
    """A database of the test's own, migrated."""
    with fresh_database(postgres_server) as database:
        for name in ("order", "relay"):
            migrate_service(name, database)
        yield database


@pytest.fixture
def relay_url(fresh: Database) -> str:
    """Where the relay finds it, with its own role."""
    return fresh.as_role("relay_service")


@pytest.fixture
async def outbox(fresh: Database, relay_url: str) -> AsyncIterator[Outbox]:
    async with connected(fresh.url, relay=relay_url, order=fresh.as_role("order_service")) as outbox:
        yield outbox
