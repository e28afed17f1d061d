"""Two cells share all participants: each audits its own orders, and takes no hold of the other for an orphan."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from shared.ids import uuid7
from shared.process.exits import Exit
from shared.slots import slot_of
from tests.infrastructure.checkout import Checkout, Participants, ordering, participants
from tests.infrastructure.databases import Database
from tests.infrastructure.orderctl import orderctl
from tests.infrastructure.shopping import a_coupon, a_product, an_order
from tests.integration.order_audit.test_findings import USE, debit, grown_old, hold

pytestmark = pytest.mark.asyncio(loop_scope="module")

SINCE = "2020-01-01T00:00:00Z"
# The cells, and a user of each.
SLOTS = (("0-2047", "older"), ("2048-4095",))
USERS = ("bob", "alice")
OLDER = UUID("016f5e66-e7ff-7fff-8000-000000000000")  # a millisecond before SINCE, with a slot of cell 1
CANCELLED = """INSERT INTO orders.orders (order_id, user_id, status, lines, currency)
               VALUES ($1, 'bob', 'CANCELLED', '[]', 'KRW')"""
ACT = {"actor": "sue", "reason": "orphans"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def others(database: Database) -> AsyncIterator[Participants]:
    """Serve the participants of both cells."""
    async with participants(database) as others:
        yield others


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cells(
    database: Database, others: Participants, create_database: Callable[..., Database]
) -> AsyncIterator[list[Checkout]]:
    """Serve the order service of two cells, each with a database of its own."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(ordering(own, others, cell_slots=slots, cell_slots_since=SINCE))
            for own, slots in zip((database, create_database(migrated=True)), SLOTS, strict=True)
        ]


async def findings(cell: Checkout) -> list[tuple[str, str, UUID]]:
    """Return kind, participant and order of what a pass of the cell's audit finds."""
    report = await cell.admin.post("/admin/v1/audit", None)
    return sorted((one["kind"], one["participant"], UUID(one["order_id"])) for one in report["findings"])


async def misplaced(cell: Checkout) -> list[UUID]:
    """Return the orders that seem to be of another cell."""
    return [order_id for kind, _, order_id in await findings(cell) if kind == "misplaced"]


async def repaired(cell: Checkout, **options: Any) -> set[tuple[str, UUID]]:
    """Let the cell repair, and return the commands with their orders."""
    done = await cell.admin.post("/admin/v1/audit/repair", {**ACT, **options})
    return {(one["type"], UUID(one["order_id"])) for one in done["commands"]}


async def test_no_cell_takes_the_holds_of_another_for_orphans(cells: list[Checkout]) -> None:
    shop = cells[0].shop
    product = await a_product(shop, price=5, stock=100)
    for cell, user in zip(cells, USERS, strict=True):
        await shop.balance.post(f"/v1/accounts/{user}/charges", {"amount": 1000})
        for payment in ("now", "later"):
            body = an_order(user, product, coupon_id=await a_coupon(shop, user), payment=payment)
            order = await cell.shop.order.post("/v1/orders", body)
            await grown_old(UUID(order["order_id"]))
    for cell in cells:
        assert await findings(cell) == []
        assert await repaired(cell, restored=["product", "coupon", "balance"]) == set()
    assert (await shop.product.get(f"/v1/products/{product}"))["stock"] == 96


async def test_operators_lists_have_the_rows_of_both_cells(cells: list[Checkout]) -> None:
    shop = cells[0].shop
    product = await a_product(shop, price=0, stock=100)
    placed = [
        (await cell.shop.order.post("/v1/orders", an_order(user, product)))["order_id"]
        for user, cell in list(zip(USERS, cells, strict=True)) * 2
    ]
    settings = {
        "ORDERCTL_ORDER_CELLS": " ".join(cell.shop.order.url for cell in cells),
        "ORDERCTL_CELLS": " ".join(cell.admin.url for cell in cells),
    }
    rows: list[dict[str, Any]] = []
    for limit in (3, 4):
        ended = await orderctl(settings, "orders", "list", "--limit", str(limit), "--json")
        assert (ended.status, ended.err) == (Exit.DONE, "")
        rows = json.loads(ended.out)
        assert [row["order_id"] for row in rows] == placed[: -limit - 1 : -1]
        assert [row["cell"] for row in rows] == ([cell.shop.order.url for cell in reversed(cells)] * 2)[:limit]
    for user, cell in zip(USERS, cells, strict=True):
        order_id = next(row["order_id"] for row in rows if row["user_id"] == user)
        shown = await orderctl(settings, "sagas", "show", order_id, "--json")
        assert json.loads(shown.out)["cell"] == cell.admin.url
        refused = await orderctl(settings, "sagas", "force", order_id, "--reason", "a test", "--by", "sue")
        assert (refused.status, refused.err[:24]) == (Exit.FAILED, "409 saga-not-in-state: O")
    missing = await orderctl(settings, "sagas", "retry", str(uuid.uuid4()), "--reason", "a test", "--by", "sue")
    assert (missing.status, missing.err[:20]) == (Exit.FAILED, "404 saga-not-found: ")


@pytest.mark.parametrize(
    ("order_id", "owner"),
    [
        (uuid7(slot=slot_of(USERS[0])), 0),
        (uuid7(slot=slot_of(USERS[1])), 1),
        (OLDER, 0),
        (uuid.UUID("ffffffff-ffff-4fff-8fff-ffffffffffff"), 1),
        (uuid.UUID("00000000-0000-4fff-8fff-ffffffffffff"), 0),
    ],
    ids=["slot of cell 0", "slot of cell 1", "older", "of another kind", "of another kind, and older"],
)
async def test_orphan_is_found_and_given_back_by_one_cell(cells: list[Checkout], order_id: UUID, owner: int) -> None:
    shop, db = cells[0].shop, cells[0]
    product, user = await a_product(shop, stock=10), f"user-{order_id}"
    await shop.balance.post(f"/v1/accounts/{user}/charges", {"amount": 100})
    await hold(db, order_id, product, 4)
    await db.db.execute(USE, order_id, await a_coupon(shop, user))
    await debit(db, order_id, user, 7)
    await grown_old(order_id)
    expected = [("orphan", participant, order_id) for participant in ("balance", "coupon", "product")]
    other = cells[1 - owner]
    assert await findings(other) == []
    assert await repaired(other) == set()
    assert await findings(cells[owner]) == expected
    assert await repaired(cells[owner]) == {(undo, order_id) for undo in ("restore_stock", "release_coupon", "refund")}
    assert await findings(cells[owner]) == []
    assert (await shop.product.get(f"/v1/products/{product}"))["stock"] == 10


async def test_order_in_the_wrong_cell_is_found_and_not_repaired(cells: list[Checkout], others: Participants) -> None:
    product = await a_product(cells[0].shop, price=0, stock=10)
    async with ordering(cells[0].database, others) as careless:
        order = await careless.shop.order.post("/v1/orders", an_order("alice", product))
        order_id = UUID(order["order_id"])
        await grown_old(order_id)
        assert await findings(cells[0]) == [("misplaced", "order", order_id)]
        assert await repaired(cells[0], restored=["product", "coupon", "balance"]) == set()
        await careless.shop.order.post(f"/v1/orders/{order_id}/cancel", None)
        # It has no holds any more. But its events are still in the wrong cell.
        assert await findings(cells[0]) == [("misplaced", "order", order_id)]
        for table in ("outbox", "sagas", "orders"):
            await careless.db.execute(f"DELETE FROM orders.{table} WHERE order_id = $1", order_id)


async def test_orders_with_other_slots_than_their_users_show_that_the_time_is_wrong(
    database: Database, others: Participants
) -> None:
    """In the only cell, before there is another one."""
    # The time is before an order whose id, of an earlier version, has random bits.
    old = UUID("019a0c1e-7d52-7c48-9b1f-2f4e8a6d0c11")
    async with ordering(database, others, cell_slots_since=SINCE) as cell:
        await cell.db.execute(CANCELLED, old)
        try:
            assert await misplaced(cell) == [old]
            async with ordering(database, others, cell_slots_since="2026-01-01T00:00:00Z") as later:
                assert await misplaced(later) == []
        finally:
            await cell.db.execute("DELETE FROM orders.orders WHERE order_id = $1", old)
