"""A service without a needed right or column is unready and names it, keeps running, and recovers with the repair."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from deploy.consumer import store as consumer
from shared.postgres.query_check import EVERY_SECONDS, QueryCheck, QueryRefused
from tests.infrastructure.databases import Database
from tests.infrastructure.everything import everything, migrate_everything
from tests.infrastructure.services import SCHEMAS, queries_of
from tests.infrastructure.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERIES = {**{name: queries_of(name) for name in SCHEMAS}, "consumer": consumer.SQL}
ROLES = {**{name: f"{name}_service" for name in SCHEMAS}, "consumer": "platform_consumer"}
OWN_SCHEMAS = {**SCHEMAS, "consumer": "platform"}
NOTICED_SECONDS = EVERY_SECONDS + 2
# Of the triggers on closed slots, which are disabled.
CLOSED_SLOTS = tuple(f"closed_slots.{name}" for name in ("slot", "state", "first_id", "changed_at"))
# Columns that only defaults write, or that only functions with the owner's rights or the audit use.
UNUSED_COLUMNS = {
    "order": {
        *(f"orders.outbox.{name}" for name in ("outbox_id", "occurred_at", "shard", "status", "sent_at")),
        *("orders.outbox.parked_at", "orders.outbox.parked_reason", "orders.outbox_partitions.partition"),
        *(f"orders.outbox_partitions.{name}" for name in ("attached_at", "opened_at", "writers", "published_at")),
        *("orders.relay_shards.single", "orders.closed_slots.changed_at"),
    },
    "product": {"products.products.created_at", "products.holds.held_at", "products.gates.opened_at"},
    "coupon": {"coupons.gates.opened_at", *(f"coupons.{name}" for name in CLOSED_SLOTS)},
    "balance": {
        *("balances.accounts.created_at", "balances.gates.opened_at"),
        *(f"balances.{name}" for name in CLOSED_SLOTS),
    },
    "relay": {"relay.watermark.single"},
    "consumer": {"platform.migrations.name", "platform.restores.restore_id"},
}
RIGHTS = {"SELECT": "FROM", "INSERT": "INSERT INTO", "UPDATE": "UPDATE", "DELETE": "DELETE FROM"}


class Fault(NamedTuple):
    """An operator's mistake in a service's database, its repair, and the text with which the service names it."""

    service: str
    cause: str
    mend: str
    named: str


def revoked(service: str, right: str) -> Fault:
    """Return the fault of a revoked right; the message must have the command that grants it."""
    grant = f"GRANT {right} TO {ROLES[service]};"
    return Fault(service, f"REVOKE {right} FROM {ROLES[service]}", grant, grant)


def renamed(service: str, table: str, column: str) -> Fault:
    """Return the fault of a missing column."""
    cause = f"ALTER TABLE {table} RENAME COLUMN {column} TO other"
    return Fault(service, cause, f"ALTER TABLE {table} RENAME COLUMN other TO {column}", f'{column}" ')


def uncallable(service: str, function: str) -> Fault:
    """Return the fault of a function that the service may not call; by default every role may."""
    named = f"GRANT EXECUTE ON FUNCTION {function} TO {ROLES[service]};"
    return Fault(service, f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC, {ROLES[service]}", named, named)


FAULTS = [
    revoked("order", "INSERT ON orders.outbox"),
    revoked("order", "UPDATE ON orders.sagas"),
    revoked("order", "SELECT ON orders.relay_shards"),
    revoked("order", "USAGE ON SCHEMA orders"),
    uncallable("order", "orders.oldest_unpublished_seconds"),
    renamed("order", "orders.idempotency_keys", "fingerprint"),
    revoked("product", "UPDATE ON products.products"),
    uncallable("product", "products.is_dated"),
    renamed("product", "products.holds", "quantity"),
    revoked("coupon", "SELECT ON coupons.outcomes"),
    uncallable("coupon", "coupons.first_id_after"),
    revoked("balance", "INSERT ON balances.entries"),
    revoked("balance", "USAGE ON SCHEMA balances"),
    renamed("balance", "balances.horizon", "pruned_before"),
    *(revoked("relay", f"UPDATE ({name}) ON orders.outbox") for name in ("status", "sent_at", "parked_at")),
    revoked("relay", "UPDATE (parked_reason) ON orders.outbox"),
    revoked("relay", "SELECT ON orders.outbox"),
    revoked("relay", "SELECT ON orders.outbox_partitions"),
    revoked("relay", "SELECT ON orders.relay_shards"),
    revoked("relay", "USAGE ON SCHEMA orders"),
    *(
        revoked("relay", f"EXECUTE ON FUNCTION orders.{name}")
        for name in ("redacted", "redact_event", "rotate_outbox", "note_published", "drop_published")
    ),
    revoked("relay", "INSERT ON relay.operator_acts"),
    uncallable("relay", "relay.cycle"),
    renamed("relay", "relay.shards", "sweep_took"),
    revoked("consumer", "DELETE ON platform.inbox"),
    revoked("consumer", "USAGE ON SCHEMA platform"),
    renamed("consumer", "platform.streams", "asked_at"),
]


@pytest.fixture(scope="module")
def migrated(database: Database) -> Database:
    """Return a database with the tables of all services."""
    migrate_everything(database)
    return database


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def operator(migrated: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(migrated.url)
    yield connection
    await connection.close()


@asynccontextmanager
async def undone(operator: asyncpg.Connection, *statements: str) -> AsyncIterator[None]:
    """Execute statements in a transaction that ends with the body."""
    transaction = operator.transaction()
    await transaction.start()
    try:
        for statement in statements:
            await operator.execute(statement)
        yield
    finally:
        await transaction.rollback()


async def refusal(operator: asyncpg.Connection, service: str) -> str:
    """Return why the service's role can't execute all its queries; empty if it can."""
    check = QueryCheck(QUERIES[service])
    await operator.execute(f"SET LOCAL ROLE {ROLES[service]}")
    try:
        for _ in range(20):  # enough rounds for a slow machine
            await check.run(operator)
    except QueryRefused as error:
        return str(error)
    return ""


@pytest.mark.parametrize("service", QUERIES)
async def test_the_role_of_a_deployment_can_execute_every_query(operator: asyncpg.Connection, service: str) -> None:
    async with undone(operator):
        assert await refusal(operator, service) == ""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.cause)
async def test_missing_right_or_object_is_named(operator: asyncpg.Connection, fault: Fault) -> None:
    async with undone(operator, fault.cause):
        assert fault.named in await refusal(operator, fault.service)


@pytest.mark.parametrize("service", QUERIES)
async def test_every_column_that_is_missing_is_named(operator: asyncpg.Connection, service: str) -> None:
    columns = await operator.fetch(
        "SELECT format('%s.%s', nspname, relname) AS table, attname AS column FROM pg_attribute"
        " JOIN pg_class AS c ON c.oid = attrelid JOIN pg_namespace AS n ON n.oid = relnamespace"
        " WHERE nspname = $1 AND relkind IN ('r', 'p') AND NOT relispartition AND relname !~ 'yoyo' AND attnum > 0"
        " AND NOT attisdropped",
        OWN_SCHEMAS[service],
    )
    unnoticed = []
    for table, column in columns:
        async with undone(operator, f"ALTER TABLE {table} RENAME COLUMN {column} TO other"):
            if column not in await refusal(operator, service):
                unnoticed.append(f"{table}.{column}")
    assert set(unnoticed) == UNUSED_COLUMNS[service]


@pytest.mark.parametrize("service", QUERIES)
async def test_every_right_is_needed_and_named_when_it_is_missing(operator: asyncpg.Connection, service: str) -> None:
    role, schema = ROLES[service], OWN_SCHEMAS[service]
    granted = await operator.fetch(
        "SELECT relname, privilege FROM pg_class, unnest($3::text[]) AS privilege"
        " WHERE relnamespace = $2::text::regnamespace AND relkind IN ('r', 'p')"
        " AND has_table_privilege($1, pg_class.oid, privilege)",
        role,
        schema,
        list(RIGHTS),
    )
    # The check plans queries, and executes no function that they call.
    functions = await operator.fetchval(
        "SELECT string_agg(prosrc, ';') FROM pg_proc WHERE pronamespace = $1::text::regnamespace", schema
    )
    assert granted
    for name, right in granted:
        table = f"{schema}.{name}"
        async with undone(operator, f"REVOKE {right} ON {table} FROM {role}"):
            detail = await refusal(operator, service)
            if detail:
                assert f"GRANT {right} ON {table} TO {role};" in detail
            else:
                assert f"{RIGHTS[right]} {table}" in functions


async def test_query_that_waits_for_a_lock_is_named(operator: asyncpg.Connection, migrated: Database) -> None:
    other = await asyncpg.connect(migrated.url)
    try:
        async with undone(other, "LOCK TABLE products.holds"), undone(operator):
            assert "lock timeout" in await refusal(operator, "product")
    finally:
        await other.close()


async def test_service_with_a_missing_right_or_object_is_unready_until_repaired(
    migrated: Database, kafka_bootstrap: str
) -> None:
    faults = {
        fault.service: fault
        for fault in (
            revoked("order", "UPDATE ON orders.sagas"),
            uncallable("product", "products.is_dated"),
            renamed("coupon", "coupons.coupons", "max_discount"),
            revoked("balance", "USAGE ON SCHEMA balances"),
            revoked("relay", "UPDATE (parked_reason) ON orders.outbox"),
            revoked("consumer", "DELETE ON platform.inbox"),
        )
    }
    async with everything(migrated, kafka_bootstrap) as clients:

        async def database_checks() -> Mapping[str, str]:
            found = {}
            for name, client in clients.items():
                answer = await client.call("GET", "/readyz")
                found[name] = answer.body["checks"]["database"]
                assert (answer.status == 200) <= (found[name] == "ok")
                assert (await client.call("GET", "/livez")).status == 200
            return found

        async def all_ready() -> bool:
            return set((await database_checks()).values()) == {"ok"}

        async def all_named() -> bool:
            return all(faults[name].named in text for name, text in (await database_checks()).items())

        await eventually(all_ready, NOTICED_SECONDS, "services that are ready")
        with psycopg.connect(migrated.url, autocommit=True) as operator:
            for fault in faults.values():
                operator.execute(fault.cause)
            try:
                await eventually(all_named, NOTICED_SECONDS, "services that name what they lack")
            finally:
                for fault in faults.values():
                    operator.execute(fault.mend)
        await eventually(all_ready, NOTICED_SECONDS, "services that are ready again")
