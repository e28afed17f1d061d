"""No query that lists, sweeps or prunes reads unrelated rows, even with a long history."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.bench.checkout.catalogue import SEED
from tests.bench.history.seed import seed
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SCHEMAS, migrate_service, queries_of

ORDERS = 20_000  # enough that Postgres prefers the right index to reading everything
# The most rows for any plan node: a batch of 500 with its orders' lines, far less than a twentieth of any table.
ROWS_MAX = 2_000
LISTS = (
    "list_",
    "get_",
    "find_",
    "count_",
    "prune_",
    "lock_gates_to_prune",
    "delete_",
    "take_over",
    "forget_",
    "read_",
)
# The audit's own checks read all of a participant's books, once per pass; the others are hot-path queries by key.
WHOLE = {
    ("product", "read_totals"),
    ("coupon", "read_totals"),
    ("balance", "read_totals"),
}
BY_KEY = {"read_keys", "read_live_sagas", "read_clock", "read_server", "read_outcomes", "read_holds", "read_paid"}

# Besides ended orders: unpaid, due and rejected orders, live sagas with owners, and keys of all ages.
PRESENT = """
INSERT INTO orders.orders (order_id, user_id, status, lines, subtotal_amount, discount_amount, total_amount, currency,
                           event_sequence, expires_at)
SELECT overlay(gen_random_uuid()::text PLACING '0190f000-0000-7' FROM 1)::uuid, 'u-1', 'PENDING_PAYMENT', '[]', 1, 0, 1,
       'KRW', 1, now() + (n - 100) * interval '1 minute' FROM generate_series(1, 3000) AS n;
INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, owner)
SELECT gen_random_uuid(), order_id, 'pay', 1, 'RUNNING',
       ('00000000-0000-0000-0000-00000000000' || row_number() OVER () % 2)::uuid
FROM (SELECT order_id FROM orders.orders WHERE status = 'PAID' LIMIT 100) AS paid;
INSERT INTO orders.processes VALUES ('00000000-0000-0000-0000-000000000000', now() - interval '1 minute'),
                                    ('00000000-0000-0000-0000-000000000001', now() + interval '1 hour');
INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, status, body, created_at)
SELECT 'u-1', 'place', 'old-' || n, '', 201, '', now() - n * interval '10 seconds' FROM generate_series(1, 20000) AS n;
INSERT INTO orders.orders (order_id, user_id, status, lines, currency, reason)
SELECT overlay(gen_random_uuid()::text
               PLACING left(orders.first_id_after(now() - n * interval '10 minutes')::text, 14) || '7' FROM 1)::uuid,
       'u-1', 'REJECTED', '[]', 'KRW', 'out-of-stock' FROM generate_series(1, 5000) AS n;
INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, owner, problem, ended_at)
SELECT gen_random_uuid(), order_id, 'place_now', 1, 'COMPENSATED', '00000000-0000-0000-0000-000000000000', '{}',
       now() - interval '60 days' FROM orders.orders WHERE status = 'REJECTED';
INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, saga_id)
SELECT 'u-1', 'place', saga_id, '', saga_id FROM orders.sagas WHERE problem IS NOT NULL;
INSERT INTO orders.operator_acts (actor, act, reason) SELECT 'ann', 'retry', 'why' FROM generate_series(1, 20000);
UPDATE products.holds SET status = 'RESTORED', restored_at = now() WHERE order_id IN (
    SELECT order_id FROM products.gates ORDER BY order_id LIMIT 100);
"""

LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
FIRST = "00000000-0000-0000-0000-000000000000"
AN_ORDER = "(SELECT order_id FROM orders.orders WHERE status = 'PAID' ORDER BY order_id DESC LIMIT 1)"
BATCH = "(SELECT array_agg(order_id) FROM (SELECT order_id FROM {}.gates ORDER BY order_id LIMIT 10) AS due)"
OWNER = "'00000000-0000-0000-0000-000000000001'"

# Arguments by query, as SQL: pages from the middle and from the start, with and without due rows.
CASES: dict[tuple[str, str], Sequence[Sequence[str]]] = {
    ("order", "get_order"): [[AN_ORDER]],
    ("order", "list_orders"): [[f"'{LAST}'", "101"], [AN_ORDER, "101"]],
    ("order", "list_orders_of_user"): [[f"'{LAST}'", "101", "'u-7'"], [f"'{LAST}'", "101", "'nobody'"]],
    ("order", "list_orders_by_status"): [[f"'{LAST}'", "101", "'PAID'"], [f"'{LAST}'", "101", "'EXPIRED'"]],
    ("order", "list_orders_of_user_by_status"): [
        [f"'{LAST}'", "101", "'u-7'", "'PAID'"],
        [f"'{LAST}'", "101", "'u-7'", "'REFUNDED'"],
        [f"'{LAST}'", "101", "'u-9999'", "'PENDING_PAYMENT'"],
    ],
    ("order", "list_sagas_of_order"): [[AN_ORDER]],
    ("order", "get_saga"): [[f"(SELECT saga_id FROM orders.sagas WHERE order_id = {AN_ORDER} LIMIT 1)"]],
    ("order", "count_stuck"): [[]],
    ("order", "forget_dead_processes"): [[]],
    ("order", "take_over"): [[OWNER, "'{1}'", "200"]],
    ("order", "list_own"): [[OWNER, "'{1}'"]],
    ("order", "count_unknown_versions"): [["'{1}'"]],
    ("order", "list_closed_slots"): [[]],
    ("order", "list_slots_elsewhere"): [[]],
    ("order", "list_expired"): [["200", "false"], ["200", "true"]],
    ("order", "prune_keys"): [["'1970-01-01Z'", "500", "24"], ["'1970-01-01Z'", "500", "10000"]],
    ("order", "prune_rejected"): [
        [f"'{FIRST}'", "500", "168"],
        [f"'{FIRST}'", "500", "10000"],
        [AN_ORDER, "500", "168"],
    ],
    ("order", "prune_sagas"): [[f"'{FIRST}'", "500", "60"], [f"'{FIRST}'", "500", "90"]],
    ("order", "list_live_sagas"): [["0", "100"]],
    ("order", "list_leases"): [["100"]],
    ("order", "find_sagas"): [[AN_ORDER]],
    ("order", "list_acts"): [["100"]],
    ("order", "count_live_by_version"): [[]],
    ("order", "list_orders_to_audit"): [[f"'{FIRST}'", "500"], [AN_ORDER, "500"], [AN_ORDER, "1"]],
    ("order", "read_value_at_risk"): [[]],
    ("order", "read_backlog"): [[]],
    ("product", "get_product"): [["'p-1'"]],
    ("product", "list_products"): [["''", "101"], ["'p-5'", "101"]],
    ("product", "list_holds"): [[f"'{FIRST}'", f"'{LAST}'", "500"], [AN_ORDER, f"'{LAST}'", "500"]],
    ("product", "list_own_holds"): [
        [first, f"'{LAST}'", "50", "800", "decode(repeat(" + byte + ", 512), 'hex')", f"'{FIRST}'", "true"]
        for first in (f"'{FIRST}'", AN_ORDER)
        for byte in ("'ff'", "'01'")
    ],
    ("product", "read_gate_outcomes"): [[AN_ORDER]],
    ("coupon", "get_coupon"): [["'c-1'"]],
    ("coupon", "list_coupons"): [["''", "101"], ["'c-5'", "101"]],
    ("coupon", "list_coupons_of_user"): [["''", "101", "'u-7'"]],
    ("coupon", "list_coupons_by_status"): [["''", "101", "'REDEEMED'"], ["''", "101", "'RESERVED'"]],
    ("coupon", "list_coupons_of_user_by_status"): [["''", "101", "'u-7'", "'REDEEMED'"]],
    ("coupon", "list_holds"): [[f"'{FIRST}'", f"'{LAST}'", "500"], [AN_ORDER, f"'{LAST}'", "500"]],
    ("coupon", "read_gate_outcomes"): [[AN_ORDER]],
    ("balance", "get_account"): [["'u-7'"]],
    ("balance", "get_charge"): [["'u-7'", "'key'"]],
    ("balance", "list_entries"): [["'u-7'", "1000", "101"]],
    ("balance", "list_holds"): [[f"'{FIRST}'", f"'{LAST}'", "500"], [AN_ORDER, f"'{LAST}'", "500"]],
    ("balance", "read_gate_outcomes"): [[AN_ORDER]],
    ("product", "delete_restored"): [[BATCH.format("products")]],
    **{
        (name, query): cases
        for name in ("product", "coupon", "balance")
        for query, cases in {
            "lock_gates_to_prune": [[f"'{FIRST}'", "500"]],
            "delete_outcomes": [[BATCH.format(SCHEMAS[name])]],
            "delete_gates": [[BATCH.format(SCHEMAS[name])]],
        }.items()
    },
}
QUERIES = {service: queries_of(service) for service in ("order", *list(SCHEMAS)[1:4])}

COUNT = count()

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def history(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Return a superuser's connection to a database with history."""
    for service in SCHEMAS:
        migrate_service(service, database)
    connection = await asyncpg.connect(database.url)
    await connection.execute(SEED)
    seed(database.url, ORDERS)
    await connection.execute(PRESENT)
    for schema in ("products", "coupons", "balances"):
        # Only the oldest orders are past: of 80 days, the first ten.
        await connection.execute(
            f"UPDATE {schema}.horizon SET pruned_before = {schema}.first_id_after(now() - '70 days'::interval)"
        )
    await connection.execute("VACUUM ANALYZE")
    yield connection
    await connection.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all nodes of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def looked_at(node: dict[str, Any]) -> float:
    """Return how many rows a node read: those that it returned, and those that it filtered out."""
    left_out = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck", "Join Filter"))
    return float((node["Actual Rows"] + left_out) * node["Actual Loops"])


async def test_every_query_that_lists_sweeps_or_prunes_has_a_plan_test() -> None:
    found = {(service, name) for service in QUERIES for name in QUERIES[service] if name.startswith(LISTS)}
    assert {query for query in found if query[1] not in BY_KEY} == CASES.keys() | WHOLE


@pytest.mark.parametrize("generic", [False, True], ids=["planned for its values", "planned for any values"])
@pytest.mark.parametrize(
    ("query", "arguments"),
    [(query, arguments) for query, cases in CASES.items() for arguments in cases],
    ids=lambda value: "-".join(value)[:60] if value else "without",
)
async def test_query_reads_only_the_rows_that_it_needs(
    history: asyncpg.Connection, query: tuple[str, str], arguments: Sequence[str], *, generic: bool
) -> None:
    values = [await history.fetchval(f"SELECT ({value})::text") for value in arguments]
    given = ", ".join(f"'{value}'" for value in values)
    name = f"looked_at_{next(COUNT)}"
    async with rolled_back(history):
        mode = "force_generic_plan" if generic else "force_custom_plan"
        # Without triggers: gates are deleted here although their outcomes still exist.
        await history.execute(f"SET LOCAL plan_cache_mode = {mode}; SET LOCAL session_replication_role = replica")
        await history.execute(f"PREPARE {name} AS {QUERIES[query[0]][query[1]]}")
        call = f"{name} ({given})" if given else name
        explained = await history.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {call}")
    plan = json.loads(explained)[0]["Plan"]
    wrong = [node for node in nodes(plan) if looked_at(node) > ROWS_MAX]
    assert not wrong, json.dumps(plan, indent=1)


class rolled_back:  # noqa: N801 - reads as words in `async with rolled_back(...)`
    """Run the body in a transaction that is rolled back, because EXPLAIN ANALYZE executes the statement."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._transaction = connection.transaction()

    async def __aenter__(self) -> None:
        await self._transaction.start()

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()
