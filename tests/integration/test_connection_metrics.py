"""Metrics show how connections to Postgres are used, which orders are overdue, and the server's state."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from services.order.backlog import Backlog
from services.order.settings import Settings
from shared.postgres.connections import Pool, Session, connected
from tests.infrastructure.databases import Database
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
POOL = "db_client_connection_pool_name"
OVERDUE = """
INSERT INTO orders.orders (order_id, user_id, status, lines, subtotal_amount, discount_amount, total_amount, currency,
                           expires_at)
VALUES (%s, 'u', 'PENDING_PAYMENT', '[]', 0, 0, 0, 'KRW', clock_timestamp() - interval '100 seconds')
"""


@pytest.fixture(scope="module")
def settings(database: Database) -> Settings:
    """The settings of an order service with this database."""
    return Settings(port=8001, database_url=migrate_service("order", database), pool_size=2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    """A pool of two connections, under a name of its own."""
    async with Pool(settings, "measured") as pool:
        yield pool


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def use(name: str) -> list[float | None]:
    """Return how many connections of a name there may be, are used and are idle, and how many callers wait."""
    used, idle = (
        value("db_client_connection_count", **{POOL: name, "db_client_connection_state": state})
        for state in ("used", "idle")
    )
    most = value("db_client_connection_max", **{POOL: name})
    return [most, used, idle, value("db_client_connection_pending_requests", **{POOL: name})]


async def test_a_full_pool_shows_who_waits_for_a_connection(pool: Pool) -> None:
    async def take() -> None:
        async with pool.connection():
            pass

    async with pool.connection():
        assert use("measured") == [2, 1, 0, 0]
        async with pool.connection():
            waiting = [asyncio.create_task(take()) for _ in range(3)]

            async def they_wait() -> bool:
                return use("measured") == [2, 2, 0, 3]

            await eventually(they_wait, 5, "three that wait")
        await asyncio.gather(*waiting)
    assert use("measured") == [2, 0, 2, 0]


async def test_sessions_and_single_connections_count_while_they_are_open(settings: Settings) -> None:
    async with Session(settings, "measured session") as session:
        assert use("measured session") == [1, 0, 0, 0]
        async with session.statement():
            assert use("measured session") == [1, 1, 0, 0]
        assert use("measured session") == [1, 0, 1, 0]
    assert use("measured session") == [None, None, None, None]
    async with connected(settings, "measured connection"):
        assert use("measured connection") == [1, 1, 0, 0]
    assert use("measured connection") == [None, None, None, None]


async def test_overdue_orders_and_the_server_are_measured(pool: Pool, database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as superuser:
        superuser.execute(OVERDUE, [uuid4()])
        superuser.execute("SELECT pg_create_physical_replication_slot('measured', true)")
        try:
            superuser.execute("SELECT pg_switch_wal()")
            await Backlog(pool)._measure()
        finally:
            superuser.execute("SELECT pg_drop_replication_slot('measured')")
        most = superuser.execute("SHOW max_connections").fetchall()
    assert 100 <= (value("orders_overdue_oldest_seconds") or 0) < 130
    assert value("outbox_oldest_unpublished_seconds") == 0
    assert value("postgres_connections_max") == float(most[0][0])
    assert 2 <= (value("postgres_connections") or 0) <= float(most[0][0])
    database_bytes, outbox_bytes = value("postgres_database_bytes"), value("postgres_outbox_bytes")
    assert 1e6 < (database_bytes or 0) > (outbox_bytes or 0) > 0
    assert 0 < (value("postgres_wal_kept_bytes") or 0) <= (value("postgres_wal_written_bytes") or 0)
