"""A fresh outbox for each test, since partitions come and go in it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.infrastructure.databases import fresh_database
from tests.infrastructure.services import migrate_service
from tests.integration.relay_storage.outbox import Outbox


@pytest.fixture
async def outbox(postgres_server: str) -> AsyncIterator[Outbox]:
    with fresh_database(postgres_server) as database:
        order, relay = (migrate_service(name, database) for name in ("order", "relay"))
        connections = [await asyncpg.connect(url) for url in (database.url, relay, order)]
        try:
            yield Outbox(order, *connections)
        finally:
            for connection in connections:
                await connection.close()
