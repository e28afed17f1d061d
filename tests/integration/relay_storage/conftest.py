"""A fresh outbox for each test, because tests add and drop partitions."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.infrastructure.databases import Database, fresh_database
from tests.integration.relay_storage.outbox import Outbox, connected


@pytest.fixture
def fresh(postgres_server: str, template: Callable[..., Database]) -> Iterator[Database]:
    """Return a migrated database for one test."""
    with fresh_database(postgres_server, template=template(migrated=True)) as database:
        yield database


@pytest.fixture
def relay_url(fresh: Database) -> str:
    """Return the relay's address of the database, with its own role."""
    return fresh.as_role("relay_service")


@pytest.fixture
async def outbox(fresh: Database, relay_url: str) -> AsyncIterator[Outbox]:
    async with connected(fresh.url, relay=relay_url, order=fresh.as_role("order_service")) as outbox:
        yield outbox
