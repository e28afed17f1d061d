"""Services of a cell that owns a part of the slots: what is another cell's is refused before anything is begun."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from shared.slots import SLOTS, slot_of
from tests.infrastructure.databases import Database
from tests.infrastructure.issuer import RSA, RULES, jwk_set
from tests.infrastructure.services import Answer, migrate_service, serving
from tests.infrastructure.waiting import free_port
from tests.integration.identity.conftest import Services, Token, secret_of
from tests.integration.identity.conftest import token as token  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN, FOREIGN = "bob", "alice"
SLOT = slot_of(FOREIGN)
BACK_OFFICE = "olga"
EVERY = "orders:write coupons:write accounts:charge"
FOREIGN_ID = UUID("019a0c1e-7d52-7c47-9b1f-2f4e8a6d0c11")
OWN_ID = UUID("019a0c1e-7d52-7140-9b1f-2f4e8a6d0c11")
OLDER_ID = UUID("01000000-0000-7c47-8000-000000000000")  # of 2004, before the slots
LINES = [{"product_id": "cup", "quantity": 1}]
ORDERS_CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/orders", {"user_id": FOREIGN, "lines": LINES}),
    ("GET", f"/v1/orders?user_id={FOREIGN}", None),
    ("GET", f"/v1/orders/{FOREIGN_ID}", None),
    ("GET", f"/v1/orders/{FOREIGN_ID}/timeline", None),
    ("POST", f"/v1/orders/{FOREIGN_ID}/payment", None),
    ("POST", f"/v1/orders/{FOREIGN_ID}/cancel", None),
]
CALLS: list[tuple[str, str, str, Any]] = [
    *(("order", *call) for call in ORDERS_CALLS),
    ("coupon", "POST", "/v1/coupons", {"coupon_id": "C1", "user_id": FOREIGN, "kind": "fixed", "value": 1}),
    ("coupon", "GET", f"/v1/coupons?user_id={FOREIGN}", None),
    ("coupon", "GET", f"/v1/coupons/C1?user_id={FOREIGN}", None),
    ("balance", "POST", f"/v1/accounts/{FOREIGN}/charges", {"amount": 1}),
    ("balance", "GET", f"/v1/accounts/{FOREIGN}", None),
    ("balance", "GET", f"/v1/accounts/{FOREIGN}/entries", None),
]
# Of the caller, whom the request does not name.
OWN_CALLS = [
    ("order", "POST", "/v1/orders", {"lines": LINES}),
    ("order", "GET", "/v1/orders", None),
    ("coupon", "GET", "/v1/coupons", None),
    ("coupon", "GET", "/v1/coupons/C1", None),
    ("balance", "GET", "/v1/accounts/me", None),
    ("balance", "GET", "/v1/accounts/me/entries", None),
]
TABLES = (
    *("orders.orders", "orders.sagas", "orders.idempotency_keys", "orders.outbox"),
    *("coupons.coupons", "balances.accounts", "balances.entries"),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cell(database: Database, token: Token, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    """Serve order, coupon and balance of a cell that owns all slots but one, in jwt mode. There is no product."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "jwks.json").write_bytes(jwk_set(RSA))
    settings: dict[str, Any] = {
        "auth_mode": "jwt",
        "auth_issuer": RULES.issuer,
        "auth_audience": RULES.audience,
        "auth_jwks": str(folder / "jwks.json"),
        "cell_slots_since": "2020-01-01T00:00:00Z",
        "cell_slots": ("older", f"0-{SLOT - 1}", f"{SLOT + 1}-{SLOTS - 1}"),
    }
    clients, others = {}, {"product_url": f"http://127.0.0.1:{free_port()}"}
    async with AsyncExitStack() as stack:
        for name in ("product", "coupon", "balance"):
            secrets = folder / f"{name}-secrets"
            secrets.write_text(f"order {secret_of('order', name)}\n")
            others[f"{name}_internal_secret_file"] = str(secrets)
            url = migrate_service(name, database)
            if name != "product":
                internal = free_port()
                given: Any = {"internal_port": internal, "internal_secret_file": str(secrets), **settings}
                clients[name] = await stack.enter_async_context(serving(name, url, **given))
                others[f"{name}_url"] = f"http://127.0.0.1:{internal}"
        ports: Any = {"internal_port": free_port(), "request_deadline_seconds": 0.5}
        url = migrate_service("order", database)
        clients["order"] = await stack.enter_async_context(serving("order", url, **ports, **settings, **others))
        yield Services(clients, token)


async def rows(database: Database) -> dict[str, int]:
    """Return how many rows the tables of the cell have."""
    db = await asyncpg.connect(database.url)
    try:
        return {table: await db.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}
    finally:
        await db.close()


async def call(cell: Services, service: str, method: str, path: str, subject: str, scope: str, body: Any) -> Answer:
    headers = {"Authorization": f"Bearer {cell.token(subject, scope)}"}
    if method == "POST" and service != "coupon":
        headers["Idempotency-Key"] = uuid.uuid4().hex
    return await cell.clients[service].call(method, path, body, headers=headers)


@pytest.mark.parametrize(("service", "method", "path", "body"), CALLS, ids=[f"{call[1]} {call[2]}" for call in CALLS])
async def test_what_is_another_cells_is_refused_before_anything_is_begun(
    cell: Services, database: Database, service: str, method: str, path: str, body: Any
) -> None:
    before = await rows(database)
    answer = await call(cell, service, method, path, BACK_OFFICE, EVERY, body)
    assert (answer.status, answer.problem, answer.body["slot"]) == (421, "misdirected", SLOT)
    assert await rows(database) == before


@pytest.mark.parametrize(
    ("service", "method", "path", "body"), OWN_CALLS, ids=[f"{call[1]} {call[2]}" for call in OWN_CALLS]
)
async def test_caller_of_another_cell_is_refused(
    cell: Services, service: str, method: str, path: str, body: Any
) -> None:
    answer = await call(cell, service, method, path, FOREIGN, "", body)
    assert (answer.status, answer.problem, answer.body["slot"]) == (421, "misdirected", SLOT)
    assert (await call(cell, service, method, path, OWN, "", body)).status in (200, 202, 404)


async def test_without_the_right_to_act_for_another_user_the_scope_is_asked_for_first(cell: Services) -> None:
    for service, method, path, body in (CALLS[0], CALLS[1], CALLS[7], CALLS[8]):
        answer = await call(cell, service, method, path, OWN, "coupons:write", body)
        assert (answer.status, answer.problem) == (403, "forbidden")


@pytest.mark.parametrize(("method", "path", "body"), ORDERS_CALLS[2:])
async def test_ids_that_belong_here_are_looked_up(cell: Services, method: str, path: str, body: Any) -> None:
    for order_id in (OWN_ID, OLDER_ID):
        here = path.replace(str(FOREIGN_ID), str(order_id))
        answer = await call(cell, "order", method, here, BACK_OFFICE, EVERY, body)
        assert (answer.status, answer.problem) == (404, "order-not-found")


async def test_order_of_a_user_of_this_cell_has_their_slot(cell: Services) -> None:
    answer = await call(cell, "order", "POST", "/v1/orders", OWN, "", {"lines": LINES})
    assert answer.status == 202, answer  # there is no product service
    assert answer.body["order_id"][15:18] == f"{slot_of(OWN):03x}"
    path = f"/v1/orders/{answer.body['order_id']}"
    assert (await call(cell, "order", "GET", path, OWN, "", None)).status == 200
