"""While its database refuses it, the order service answers 503 immediately; after the repair it serves again."""

import time

import psycopg
import pytest
from prometheus_client import REGISTRY

from tests.infrastructure.databases import Database
from tests.infrastructure.services import migrate_service, serving
from tests.infrastructure.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECONDS = 15
AT_ONCE_SECONDS = 1.0  # the limit for a request with a later deadline
ORDER = {"user_id": "alice", "lines": [{"product_id": "p", "quantity": 1}], "payment": "now"}
LOOPS = ("lease", "sweep", "expiry", "audit")
FAULTS = {
    "no table may be used": (
        "REVOKE ALL ON ALL TABLES IN SCHEMA orders FROM order_service",
        "GRANT ALL ON ALL TABLES IN SCHEMA orders TO order_service",
    ),
    "the schema is away": ("ALTER SCHEMA orders RENAME TO away", "ALTER SCHEMA away RENAME TO orders"),
}


def failed_rounds(cause: str) -> dict[str, float]:
    name = "background_failed_rounds_total"
    return {loop: REGISTRY.get_sample_value(name, {"loop": loop, "cause": cause}) or 0.0 for loop in LOOPS}


@pytest.mark.parametrize("fault", FAULTS)
async def test_service_outlives_errors_that_an_operator_can_repair(database: Database, fault: str) -> None:
    cause, mend = FAULTS[fault]
    url = migrate_service("order", database)
    options = {"lease_seconds": 0.6, "sweep_interval_seconds": 0.1, "expiry_interval_seconds": 0.1}
    with psycopg.connect(database.url, autocommit=True) as operator:
        # No participant runs, so a saga that has begun gets 202 at the deadline.
        async with serving("order", url, **options, audit_interval_seconds=0.1, request_deadline_seconds=1.5) as order:

            async def begun() -> bool:
                return (await order.call("POST", "/v1/orders", ORDER)).status == 202

            async def each_loop_failed() -> bool:
                now = failed_rounds("transient")
                return all(now[loop] > before[loop] for loop in LOOPS)

            await eventually(begun, SECONDS, "an order")
            before, bugs = failed_rounds("transient"), failed_rounds("bug")
            operator.execute(cause)
            try:
                started = time.monotonic()
                assert (await order.call("POST", "/v1/orders", ORDER)).problem == "unavailable"
                assert time.monotonic() - started < AT_ONCE_SECONDS
                await eventually(each_loop_failed, SECONDS, "a failed round of each loop")
                assert (await order.call("GET", "/livez")).status == 200
                assert (await order.call("GET", "/readyz")).status == 503
            finally:
                operator.execute(mend)
            await eventually(begun, SECONDS, "an order after the fault")
            assert failed_rounds("bug") == bugs
