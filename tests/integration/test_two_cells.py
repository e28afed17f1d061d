"""Two cells and two product shards behind the router, in jwt mode: all services are real, and HAProxy."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from deploy.client import Client as OfficeClient
from deploy.orderctl.cells import disagreements
from shared.process.exits import Exit
from shared.slots import slot_of
from tests.infrastructure.books import SERVICES, violations
from tests.infrastructure.databases import Database
from tests.infrastructure.issuer import RSA, RULES, jwk_set
from tests.infrastructure.orderctl import orderctl
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.router import router
from tests.infrastructure.services import Answer, Client, migrate_service, serving
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.identity.conftest import Token, secret_of
from tests.integration.identity.conftest import token as token  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.asyncio(loop_scope="module")

USERS = ("bob", "alice")  # of cell 0 and of cell 1
PRODUCTS = ("kettle", "mug")  # of shard 0 and of shard 1
OFFICE = "olga"  # of cell 0
EVERY = "orders:write catalog:write coupons:write accounts:charge"
SLOTS = ("0-2047", "2048-4095")
SINCE, SINCE_MILLISECONDS = "2020-01-01T00:00:00Z", 1_577_836_800_000
START_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Platform:
    """Everything behind the router. `cells` stop the services of a cell, `databases` are those of the cells.

    `places`: the addresses of the cells, as orderctl has them.
    """

    client: Client
    token: Token
    admins: Sequence[Client]
    places: Mapping[str, str]
    databases: Sequence[Database]
    cells: Sequence[AsyncExitStack]

    async def call(
        self, method: str, path: str, subject: str, body: Any = None, scope: str = "", **more: str
    ) -> Answer:
        """Send a request to the router. `more`: headers, with underscores for hyphens."""
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        headers["Authorization"] = f"Bearer {self.token(subject, scope)}"
        return await self.client.call(method, path, body, headers=headers)

    async def created(self, path: str, body: Any, **more: str) -> Any:
        """Create something as the back office; return it."""
        answer = await self.call("POST", path, OFFICE, body, EVERY, **more)
        assert answer.status == 201, answer
        return answer.body

    async def orderctl(self, *arguments: str) -> Any:
        """Run a command with all cells, and return the JSON that it printed."""
        token = self.token("sue", "ops orders:read coupons:write")
        ended = await orderctl({**self.places, "ORDERCTL_TOKEN": token}, *arguments, "--json")
        assert ended.status == Exit.DONE, ended
        return json.loads(ended.out)

    async def rows(self) -> list[int]:
        """Return how many orders and keys each cell has."""
        query = "SELECT (SELECT count(*) FROM orders.orders) + (SELECT count(*) FROM orders.idempotency_keys)"
        found = []
        for database in self.databases:
            db = await asyncpg.connect(database.url)
            try:
                found.append(await db.fetchval(query))
            finally:
                await db.close()
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(
    create_database: Callable[..., Database],
    token: Token,
    reaper: Reaper,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Platform]:
    """Serve everything; the router has found it ready."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "jwks.json").write_bytes(jwk_set(RSA))
    auth: dict[str, Any] = {
        "auth_mode": "jwt",
        "auth_issuer": RULES.issuer,
        "auth_audience": RULES.audience,
        "auth_jwks": str(folder / "jwks.json"),
        "stop_delay_seconds": 0,
    }
    ports: dict[str, tuple[int, int]] = {}
    async with AsyncExitStack() as stack:
        shards = []
        databases = [create_database(migrated=True) for _ in SLOTS]
        for number, slots in enumerate(SLOTS):
            own = await participant(stack, folder, "product", databases[number], slots=(slots,), **auth)
            ports[f"product-{number}"] = own
            shards.append(f"http://127.0.0.1:{own[1]}")
        admins: list[Client] = []
        cells: list[AsyncExitStack] = []
        for number, slots in enumerate(SLOTS):
            database, cell = databases[number], await stack.enter_async_context(AsyncExitStack())
            words = (slots, *(["older"] if number == 0 else []))
            owned: dict[str, Any] = {**auth, "cell_slots": words, "cell_slots_since": SINCE}
            others: dict[str, Any] = {"product_urls": " ".join(shards)}
            for name in ("coupon", "balance"):
                own = ports[f"cell-{number}-{name}"] = await participant(cell, folder, name, database, **owned)
                others[f"{name}_url"] = f"http://127.0.0.1:{own[1]}"
            others |= {
                f"{name}_internal_secret_file": str(folder / f"{name}-secrets")
                for name in ("product", "coupon", "balance")
            }
            internal, admin = free_port(), free_port()
            others |= {"internal_port": internal, "admin_port": admin, "audit_grace_seconds": 0.2}
            order = await cell.enter_async_context(
                serving("order", migrate_service("order", database), **owned, **others)
            )
            ports[f"cell-{number}-order"] = (port_of(order), internal)
            url = f"http://127.0.0.1:{admin}"
            admins.append(Client(await cell.enter_async_context(aiohttp.ClientSession(url)), url))
            cells.append(cell)
        servers = {name: [own] for name, own in ports.items()}
        running = stack.enter_context(router(servers, reaper, since_milliseconds=SINCE_MILLISECONDS))
        client = Client(await stack.enter_async_context(aiohttp.ClientSession(running.url)), running.url)
        places = {
            "ORDERCTL_URL": running.url,
            "ORDERCTL_CELLS": " ".join(admin.url for admin in admins),
            **{
                f"ORDERCTL_{name.upper()}_CELLS": " ".join(
                    f"http://127.0.0.1:{ports[f'cell-{number}-{name}'][0]}" for number in range(len(SLOTS))
                )
                for name in ("order", "coupon")
            },
        }
        platform = Platform(client, token, admins, places, databases, cells)
        await eventually(lambda: is_ready(platform), START_SECONDS, "a router that has found all services ready")
        for product_id in PRODUCTS:
            body = {"product_id": product_id, "name": product_id, "price": 5, "stock": 100}
            await platform.created("/v1/products", body, X_Slot=str(slot_of(product_id)))
        for user in USERS:
            await platform.created(f"/v1/accounts/{user}/charges", {"amount": 1000})
        yield platform


async def participant(
    stack: AsyncExitStack, folder: Path, name: str, database: Database, **settings: Any
) -> tuple[int, int]:
    """Serve a participant; return its ports for clients and for services."""
    secrets, internal = folder / f"{name}-secrets", free_port()
    secrets.write_text(f"order {secret_of('order', name)}\n")
    own: dict[str, Any] = {"internal_port": internal, "internal_secret_file": str(secrets), **settings}
    return port_of(await stack.enter_async_context(serving(name, migrate_service(name, database), **own))), internal


def port_of(client: Client) -> int:
    return int(client.url.rpartition(":")[2])


async def is_ready(platform: Platform) -> bool:
    answers = [
        await platform.call("GET", path, user)
        for user in USERS
        for path in ("/v1/orders", "/v1/coupons", "/v1/accounts/me")
    ]
    answers += [await platform.call("GET", f"/v1/products/{product_id}", OFFICE) for product_id in PRODUCTS]
    return all(answer.status in (200, 404) for answer in answers)


def an_order(**more: Any) -> dict[str, Any]:
    return {"lines": [{"product_id": product_id, "quantity": 1} for product_id in PRODUCTS], **more}


@pytest.mark.parametrize("user", USERS)
async def test_customer_of_either_cell_needs_a_token_only(platform: Platform, user: str) -> None:
    coupon = await platform.created(
        "/v1/coupons", {"user_id": user, "kind": "fixed", "value": 3}, X_Slot=str(slot_of(user))
    )
    assert (await platform.call("GET", f"/v1/coupons/{coupon['coupon_id']}", user)).body == coupon
    body = an_order(coupon_id=coupon["coupon_id"], payment="later")
    placed = await platform.call("POST", "/v1/orders", user, body)
    assert (placed.status, placed.body["total_amount"]) == (201, 7)
    path = placed.headers["Location"]
    assert (await platform.call("GET", path, user)).body == placed.body
    assert (await platform.call("POST", f"{path}/payment", user)).body["status"] == "PAID"
    assert path.rpartition("/")[2] in [
        order["order_id"] for order in (await platform.call("GET", "/v1/orders", user)).body["items"]
    ]
    assert (await platform.call("GET", "/v1/accounts/me", user)).body["balance"] == 993
    assert (await platform.call("POST", f"{path}/cancel", user)).body["status"] == "REFUNDED"
    assert (await platform.call("GET", f"/v1/accounts/{user}", OFFICE, scope="orders:read")).body["balance"] == 1000
    assert (await platform.call("GET", f"{path}/timeline", user)).status == 200


@pytest.mark.parametrize("user", USERS)
async def test_wrong_slot_costs_a_repeat_and_begins_nothing(platform: Platform, user: str) -> None:
    key, before = uuid.uuid4().hex, await platform.rows()
    body, wrong = an_order(user_id=user), (slot_of(user) + 2048) % 4096
    refused = await platform.call("POST", "/v1/orders", OFFICE, body, EVERY, X_Slot=str(wrong), Idempotency_Key=key)
    assert (refused.status, refused.problem) == (421, "misdirected")
    assert await platform.rows() == before
    right = str(refused.body["slot"])
    placed, again = [
        await platform.call("POST", "/v1/orders", OFFICE, body, EVERY, X_Slot=right, Idempotency_Key=key)
        for _ in range(2)
    ]
    assert placed.status == again.status == 201
    assert placed.body == again.body
    grown = [after - count for after, count in zip(await platform.rows(), before, strict=True)]
    assert grown == ([2, 0] if user == USERS[0] else [0, 2])


@pytest.mark.parametrize("user", USERS)
async def test_back_office_with_the_client_for_python_needs_to_know_nothing_of_cells(
    platform: Platform, user: str
) -> None:
    async with OfficeClient(platform.client.url, token=lambda: platform.token(OFFICE, EVERY)) as office:
        products = [await office.products.create(name="Pen", price=0, stock=5) for _ in range(4)]
        coupon = await office.coupons.create(user_id=user, kind="fixed", value=1)
        assert await office.coupons.get(coupon.coupon_id, user_id=user) == coupon
        lines = {product.product_id: 1 for product in products}
        order = await office.orders.place(lines, user_id=user)
        assert (await office.orders.cancel(order.order_id)).status == "REFUNDED"
        assert order.order_id in [one.order_id async for one in office.orders.list(user_id=user)]
        assert (await office.accounts.get(user)).user_id == user


async def test_orderctl_finds_the_cell_of_a_user_and_of_an_order(platform: Platform) -> None:
    placed = [await platform.call("POST", "/v1/orders", user, an_order()) for user in USERS]
    urls = platform.places["ORDERCTL_ORDER_CELLS"].split()
    for user, url in zip(USERS, urls, strict=True):
        own = await platform.orderctl("orders", "list", "--user", user)
        assert {(order["cell"], order["user_id"]) for order in own} == {(url, user)}
        body = {"user_id": user, "kind": "fixed", "value": 1}
        coupon = await platform.created("/v1/coupons", body, X_Slot=str(slot_of(user)))
        assert await platform.orderctl("coupons", "show", coupon["coupon_id"], "--user", user) == coupon
    for order, admin in zip(placed, platform.admins, strict=True):
        order_id = order.body["order_id"]
        assert (await platform.orderctl("sagas", "show", order_id))["cell"] == admin.url
        shown = await platform.orderctl("orders", "show", order_id)
        assert (shown["order_id"], shown["status"]) == (order_id, "PAID")


async def test_value_at_risk_is_that_of_live_sagas_of_all_cells_at_all_shards(platform: Platform) -> None:
    for user, lines in zip(USERS, (2, 3), strict=True):
        body = {"lines": [{"product_id": product_id, "quantity": lines} for product_id in PRODUCTS]}
        order = (await platform.call("POST", "/v1/orders", user, body)).body
        await live_again(platform.databases[USERS.index(user)], order["order_id"])
    report = await platform.orderctl("audit")
    risks = [cell["value_at_risk"] for cell in report["cells"]]
    assert [(risk["sagas"], risk["units"], risk["amount"]) for risk in risks] == [(1, 4, 20), (1, 6, 30)]
    whole = report["together"]
    assert report["clean"] is True
    risk = whole["value_at_risk"]
    assert (risk["sagas"], risk["units"], risk["amount"], risk["coupons"]) == (2, 10, 50, 0)
    for name, totals in whole["totals"].items():
        of_cells = [cell["totals"][name] for cell in report["cells"]]
        # The cells share the products, and each has its own coupons and balances.
        expected = of_cells[0] if name == "product" else {key: sum(one[key] for one in of_cells) for key in totals}
        assert totals == expected
    for database in platform.databases:
        await execute(database, "UPDATE orders.sagas SET status = 'DONE', ended_at = now() WHERE ended_at IS NULL")
    assert (await platform.orderctl("audit"))["together"]["value_at_risk"]["sagas"] == 0


async def live_again(database: Database, order_id: str) -> None:
    """Make the last saga of an order live, of a process that never ends."""
    await execute(
        database,
        """WITH process AS (INSERT INTO orders.processes VALUES (gen_random_uuid(), 'infinity') RETURNING process_id)
           UPDATE orders.sagas SET status = 'RUNNING', ended_at = NULL, owner = process_id FROM process
           WHERE order_id = $1""",
        order_id,
    )


async def execute(database: Database, statement: str, *arguments: object) -> None:
    db = await asyncpg.connect(database.url)
    try:
        await db.execute(statement, *arguments)
    finally:
        await db.close()


async def test_books_of_both_cells_agree_with_the_shards_they_share(platform: Platform) -> None:
    headers = {"Authorization": f"Bearer {platform.token('sue', 'ops')}"}
    reports = {admin.url: await admin.post("/admin/v1/audit", None, headers=headers) for admin in platform.admins}
    for report in reports.values():
        assert (report["clean"], report["findings"]) == (True, [])
        assert report["orders"] + report["recent"] > 0
    assert disagreements(reports) == []
    urls = [database.url for database in platform.databases]  # each of a cell, and of a shard
    assert await violations(dict.fromkeys(SERVICES, urls)) == []


async def test_cell_without_the_other_one_serves_as_before(platform: Platform) -> None:
    await platform.cells[1].aclose()
    for product_id in PRODUCTS:
        assert (await platform.call("GET", f"/v1/products/{product_id}", USERS[1])).status == 200
    placed = await platform.call("POST", "/v1/orders", USERS[0], an_order())
    assert (placed.status, placed.body["status"]) == (201, "PAID")
    dead = await platform.call("POST", "/v1/orders", USERS[1], an_order())
    assert (dead.status, dead.problem) == (503, "unavailable")
