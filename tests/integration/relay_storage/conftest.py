"""A fresh outbox for each test, since partitions come and go in it."""

from collections.abc import AsyncIterator

import pytest

from tests.infrastructure.databases import fresh_database
from tests.infrastructure.services import migrate_service
from tests.integration.relay_storage.outbox import Outbox, connected


@pytest.fixture
async def outbox(postgres_server: str) -> AsyncIterator[Outbox]:
    with fresh_database(postgres_server) as database:
        order, relay = (migrate_service(name, database) for name in ("order", "relay"))
        async with connected(database.url, relay=relay, order=order) as outbox:
            yield outbox
