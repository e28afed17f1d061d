"""A product shard: calls about another shard's products are refused, and the ids that it makes are its own."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from shared.ids import uuid7
from shared.slots import slot_of
from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/products"
OWN, FOREIGN = "pen", "mug"  # of slots 767 and 2089
VALID: dict[str, Any] = {"name": "Kettle", "price": 30_000, "stock": 5}
CALLS: list[tuple[str, str, Any]] = [
    ("POST", PATH, {**VALID, "product_id": FOREIGN}),
    ("GET", f"{PATH}/{FOREIGN}", None),
    ("PATCH", f"{PATH}/{FOREIGN}", {"price": 1}),
    ("POST", f"{PATH}/{FOREIGN}/stock", {"delta": 1}),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shard(database: Database) -> AsyncIterator[Client]:
    async with serving("product", database.as_role("product_service"), slots="0-99 767") as client:
        yield client


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_product_of_another_shard_is_refused_before_anything_is_done(
    shard: Client, database: Database, method: str, path: str, body: Any
) -> None:
    answer = await shard.call(method, path, body)
    assert (answer.status, answer.problem, answer.body["slot"]) == (421, "misdirected", slot_of(FOREIGN))
    db = await asyncpg.connect(database.url)
    try:
        assert await db.fetchval("SELECT count(*) FROM products.products WHERE product_id = $1", FOREIGN) == 0
    finally:
        await db.close()


async def test_product_of_this_shard_is_served(shard: Client) -> None:
    assert (await shard.post(PATH, {**VALID, "product_id": OWN}))["product_id"] == OWN
    assert (await shard.post(f"{PATH}/{OWN}/stock", {"delta": 1}))["stock"] == 6


async def test_id_that_the_shard_makes_is_in_its_slots(shard: Client) -> None:
    for _ in range(3):
        made = (await shard.post(PATH, VALID))["product_id"]
        assert slot_of(made) in {*range(100), 767}


def hold(product_id: str) -> dict[str, Any]:
    return {"type": "hold_stock", "order_id": str(uuid7()), "lines": [{"product_id": product_id, "quantity": 1}]}


def restore(held: dict[str, Any], *product_ids: str) -> dict[str, Any]:
    return {"type": "restore_stock", "order_id": held["order_id"], "product_ids": product_ids}


async def test_undo_that_names_another_shards_product_is_unknown(shard: Client) -> None:
    """It was sent to the wrong shard: were it applied here, the right one would keep what it holds."""
    own = (await shard.post(PATH, VALID))["product_id"]
    held = hold(own)
    outcomes = await shard.command(held, restore(held, own, FOREIGN), restore(hold(FOREIGN), FOREIGN))
    assert [outcome["outcome"] for outcome in outcomes] == ["applied", "unknown", "unknown"]
    assert (await shard.get(f"{PATH}/{own}"))["stock"] == VALID["stock"] - 1
    assert [outcome["outcome"] for outcome in await shard.command(restore(held, own))] == ["applied"]
    assert (await shard.get(f"{PATH}/{own}"))["stock"] == VALID["stock"]


async def test_hold_of_another_shards_product_is_unknown_and_its_neighbours_are_run(shard: Client) -> None:
    own = (await shard.post(PATH, VALID))["product_id"]
    foreign = hold(FOREIGN)
    mixed = {**hold(own), "lines": [*hold(own)["lines"], *foreign["lines"]]}
    undo = restore(foreign)
    later = {"type": "a_later_kind", "order_id": foreign["order_id"]}
    outcomes = await shard.command(foreign, hold(own), later, mixed, undo, hold(own))
    assert [outcome["outcome"] for outcome in outcomes] == [
        *("unknown", "applied", "unknown", "unknown", "applied", "applied"),
    ]
    assert "another shard" in outcomes[0]["problem"]["detail"]
    assert "kind" in outcomes[2]["problem"]["detail"]
    assert (await shard.get(f"{PATH}/{own}"))["stock"] == VALID["stock"] - 2
