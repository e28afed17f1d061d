"""Faults of Postgres and of what is in it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.alerts.faults.platform import CONNECTIONS_MAX, Platform
from tests.alerts.faults.situation import Situation
from tests.infrastructure.missing import cannot_run, find_program
from tests.infrastructure.pgbouncer import PgBouncer
from tests.infrastructure.proxy import Mode
from tests.infrastructure.waiting import eventually

NOTICED_SECONDS = 30.0
GROWTH_ROWS, GROWTH_BYTES_MAX = 10_000, 400 * 2**20  # about 10 MB at a time
TAKEN = int(CONNECTIONS_MAX * 0.75)  # with those of the services, more than four fifths


@asynccontextmanager
async def unreachable(platform: Platform) -> AsyncIterator[None]:
    """Keep the product service from its database, while clients call it."""
    product, way = platform.cluster.client("product"), platform.cluster.ways["product→postgres"]
    way.set(Mode.CLOSED)
    try:
        async with platform.calling(lambda: product.call("GET", "/v1/products"), 4):
            yield
    finally:
        way.set(Mode.OPEN)


@asynccontextmanager
async def connections_break(platform: Platform) -> AsyncIterator[None]:
    """Break the connections of an order replica whenever it has sold something again."""
    way, sold_at = platform.cluster.ways["order-1→postgres"], platform.load.answered

    async def cut() -> None:
        while True:
            before = sold_at.get("order-1")
            way.cut()

            async def sells_again(before: float | None = before) -> bool:
                return sold_at.get("order-1") != before

            await eventually(sells_again, NOTICED_SECONDS, "a sale by order-1")

    async with platform.buying(4):
        cutting = asyncio.create_task(cut())
        try:
            yield
        finally:
            cutting.cancel()


@asynccontextmanager
async def a_pooler_takes_settings(platform: Platform) -> AsyncIterator[None]:
    """Lead the product service through a pooler in transaction mode, whose connections have no settings."""
    if find_program("pgbouncer") is None:
        cannot_run("Debian's package pgbouncer is not installed")
    product = platform.cluster.processes["product"]
    environment = product.environment
    pooler = PgBouncer(product.reaper, platform.postgres.port)
    pooler.start()
    url = pooler.through(platform.cluster.database.as_role("product_service"))
    await platform.killed("product")
    product.environment = {**environment, "PRODUCT_DATABASE_URL": url, "PRODUCT_STATEMENT_CACHE_SIZE": "0"}
    try:
        await platform.started("product")
        async with platform.buying(4):
            await asyncio.to_thread(pooler.reconnect)
            yield
        await platform.killed("product")
    finally:
        product.environment = environment
        await platform.started("product")
        pooler.kill()


@asynccontextmanager
async def connections_taken(platform: Platform) -> AsyncIterator[None]:
    """Let another program take most connections."""
    url = platform.cluster.database.url
    taken = [await asyncpg.connect(url) for _ in range(TAKEN)]
    try:
        yield
    finally:
        await asyncio.gather(*(one.close() for one in taken))


@asynccontextmanager
async def locked(platform: Platform, table: str, mode: str = "ACCESS EXCLUSIVE") -> AsyncIterator[None]:
    """Lock a table, as a migration does that somebody runs by hand."""
    connection = await asyncpg.connect(platform.cluster.database.url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
            yield
    finally:
        await connection.close()


@asynccontextmanager
async def a_transaction_stays_open(platform: Platform) -> AsyncIterator[None]:
    """Leave a transaction open that has locked the row by which relays agree who cleans the outbox."""
    connection = await asyncpg.connect(platform.cluster.database.url)
    try:
        async with connection.transaction():
            await connection.fetch("SELECT * FROM relay.duties WHERE duty = 'clean the outbox' FOR UPDATE")
            yield
    finally:
        await connection.close()


@asynccontextmanager
async def the_database_grows(platform: Platform) -> AsyncIterator[None]:
    """Fill a table, while a replication slot that nobody reads keeps the WAL."""
    operator = platform.operator
    await operator.execute("SELECT pg_create_physical_replication_slot('left', true)")
    await operator.execute("CREATE TABLE public.growth (text text)")

    async def grow() -> None:
        connection = await asyncpg.connect(platform.cluster.database.url)
        try:
            while await connection.fetchval("SELECT pg_total_relation_size('public.growth')") < GROWTH_BYTES_MAX:
                await connection.execute(
                    "INSERT INTO public.growth SELECT repeat('x', 1000) FROM generate_series(1, $1::int)", GROWTH_ROWS
                )
                before = await platform.prometheus.query("postgres:disk_bytes")

                async def noticed(before: list[dict[str, Any]] = before) -> bool:
                    now = await platform.prometheus.query("postgres:disk_bytes")
                    return [one["value"][1] for one in now] != [one["value"][1] for one in before]

                await eventually(noticed, NOTICED_SECONDS, "the growth of the disk")
        finally:
            await connection.close()

    growing = asyncio.create_task(grow())
    try:
        yield
    finally:
        growing.cancel()
        await asyncio.gather(growing, return_exceptions=True)
        await operator.execute("DROP TABLE public.growth")
        await operator.execute("SELECT pg_drop_replication_slot('left')")


@asynccontextmanager
async def an_account_is_changed(platform: Platform) -> AsyncIterator[None]:
    """Take money from an account by SQL, without an entry of the ledger."""
    user, _ = platform.load.a_customer()
    change = "UPDATE balances.accounts SET balance = balance + $1 WHERE user_id = $2"
    await platform.operator.execute(change, -5, user)
    try:
        yield
    finally:
        await platform.operator.execute(change, 5, user)


@asynccontextmanager
async def a_trigger_fails(platform: Platform) -> AsyncIterator[None]:
    """Add a trigger that refuses what the auditing process writes."""
    await platform.operator.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'a trigger that somebody added'; END$$;"
        "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON orders.duties FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )
    try:
        yield
    finally:
        await platform.operator.execute("DROP TRIGGER refuse ON orders.duties; DROP FUNCTION public.refuse()")


SITUATIONS = [
    Situation(
        "a database is unreachable",
        unreachable,
        {"ErrorBudgetFast": {"job": "product"}, "ErrorBudgetSlow": {"job": "product"}},
    ),
    Situation("connections to Postgres break", connections_break, {"DatabaseReconnects": {"job": "order"}}),
    Situation("a pooler takes settings", a_pooler_takes_settings, {"SettingsLost": {"job": "product"}}),
    Situation("Postgres has few connections left", connections_taken, {"ConnectionBudget": {}}),
    Situation("a transaction stays open", a_transaction_stays_open, {"WatermarkBehind": {}, "OutboxNotCleaned": {}}),
    Situation("the database grows", the_database_grows, {"PostgresDisk": {}, "WalKept": {}}),
    Situation("an account is changed by SQL", an_account_is_changed, {"AuditFindings": {"kind": "books"}}),
    Situation("a trigger fails", a_trigger_fails, {"LoopFails": {"job": "order", "loop": "audit"}, "AuditSilent": {}}),
]
