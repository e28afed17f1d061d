"""The audit of a cell pages through the holds of its own orders, and misses none, however many others there are."""

import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.order.audit.books import LAST, BookReader
from services.order.saga import Participant
from services.product import store
from shared.ids import uuid7
from shared.slots import SLOTS, Ownership
from tests.infrastructure.services import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = UUID(int=0)
OF_OTHERS, OF_BOTH, OF_NOBODY = ["1-4095"], ["0-1", "older"], ["17"]
Holds = dict[UUID, Mapping[str, int]]


async def holds(product: Client, url: str, seed: int) -> Holds:
    """Replace all holds by others, at the edges of pages too; return those that are not restored."""
    chosen = random.Random(seed)
    products = [
        (await product.post("/v1/products", {"name": "Cup", "price": 1, "stock": 9}))["product_id"] for _ in "ab"
    ]
    made = [datetime(2025 + chosen.randrange(2), 1, 1 + chosen.randrange(3), tzinfo=UTC) for _ in range(60)]
    ids = [uuid7(at, chosen.choice((0, 1, 2, SLOTS - 1))) for at in made] + [uuid4(), LAST, uuid7(SINCE, 1)]
    db = await asyncpg.connect(url)
    held: Holds = {}
    try:
        await db.execute("DELETE FROM products.holds")
        for order_id in ids:
            lines = {one: chosen.randrange(1, 5) for one in products[: chosen.randrange(1, 3)]}
            status = chosen.choice(("HELD", "HELD", "RESTORED"))
            for one, quantity in lines.items():
                await db.execute(HOLD, order_id, one, quantity, status)
            if status == "HELD":
                held[order_id] = lines
    finally:
        await db.close()
    return held


HOLD = """INSERT INTO products.holds (order_id, product_id, quantity, unit_price, status, restored_at)
          VALUES ($1, $2, $3, 1, $4, CASE $4 WHEN 'RESTORED' THEN now() END)"""


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("words", [OF_OTHERS, OF_BOTH, OF_NOBODY, ["older"], ["4095"]], ids=" ".join)
async def test_pages_of_any_size_have_each_order_of_the_cell_once(
    product: Client, database_url: str, words: list[str], seed: int
) -> None:
    held = await holds(product, database_url, seed)
    ownership = Ownership.of(words, SINCE)
    expected = {order_id: lines for order_id, lines in sorted(held.items()) if ownership.owns(order_id)}
    db = await asyncpg.connect(database_url)
    await db.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    try:
        for limit, factor in ((1, 1), (1, 7), (3, 2), (len(expected) or 1, 1), (1000, 16)):
            found: list[tuple[UUID, Mapping[str, int]]] = []
            after = FIRST
            while after != LAST:
                rows, last = await store.list_own_holds(db, after, LAST, limit, ownership, factor)
                assert len(rows) <= limit
                assert all(after < row["order_id"] <= last for row in rows)
                assert last > after
                found += [(row["order_id"], row["holds"]) for row in rows]
                after = last
            assert dict(found) == expected
            assert [order_id for order_id, _ in found] == list(expected)
    finally:
        await db.close()


async def test_audit_reads_the_same_with_and_without_the_filter(product: Client, database_url: str) -> None:
    held = await holds(product, database_url, 7)
    few = ["4095"]  # more orders of others lie between them than are read at once
    own = {order_id for order_id in held if Ownership.of(few, SINCE).owns(order_id)}
    assert own
    slots = {"slots": " ".join(few), "slots_since": SINCE.isoformat()}
    for given, expected in ((slots, own), ({}, set(held))):
        async with BookReader({Participant.PRODUCT: product.url}, slots=given) as books:
            found, after = set[UUID](), FIRST
            while after != LAST:
                page, after = await books.holds_after(Participant.PRODUCT, after, 1)
                found |= page.keys()
            assert found == expected


async def test_holds_of_one_order_are_those_of_the_cell_that_asks(product: Client, database_url: str) -> None:
    held = await holds(product, database_url, 8)
    for order_id, lines in held.items():
        for words in (OF_BOTH, OF_OTHERS):
            found = await product.get(
                "/internal/v1/holds", order_id=order_id, slots=" ".join(words), slots_since=SINCE.isoformat()
            )
            own = Ownership.of(words, SINCE).owns(order_id)
            assert [one["holds"] for one in found["items"]] == ([lines] if own else [])


@pytest.mark.parametrize("slots", ["4096", "a", "0-1,3", "9" * 4001])
async def test_wrong_slots_are_refused(product: Client, slots: str) -> None:
    answer = await product.call("GET", "/internal/v1/holds", params={"slots": slots})
    assert (answer.status, answer.problem) == (422, "validation-failed")
