"""The promises to the order service about stock: batches, repeats, fences, and replicas that use the same rows."""

import asyncio
import random
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from shared.contracts.commands import COMMANDS_MAX
from tests.infrastructure.replicas import in_some_order, replicas
from tests.infrastructure.services import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def products(client: Client, count: int, stock: int) -> list[str]:
    new = {"name": "Kettle", "price": 100, "stock": stock}
    return [(await client.post("/v1/products", new))["product_id"] for _ in range(count)]


def hold(order: str, **quantities: int) -> dict[str, Any]:
    lines = [{"product_id": product, "quantity": quantity} for product, quantity in quantities.items()]
    return {"type": "hold_stock", "order_id": order, "lines": lines}


def restore(order: str) -> dict[str, Any]:
    return {"type": "restore_stock", "order_id": order}


def order_id() -> str:
    return str(uuid4())


async def stock(client: Client, product: str) -> int:
    return int((await client.get(f"/v1/products/{product}"))["stock"])


async def test_a_hold_names_its_order_and_keeps_its_price(product: Client) -> None:
    (kettle,) = await products(product, 1, stock=5)
    order = order_id()
    (outcome,) = await product.command(hold(order, **{kettle: 2}))
    line = {"product_id": kettle, "name": "Kettle", "quantity": 2, "unit_price": 100}
    assert outcome == {"outcome": "applied", "result": {"lines": [line]}}
    await product.call("PATCH", f"/v1/products/{kettle}", {"price": 999})
    assert await product.holds(order) == {order: {kettle: 2}}
    assert await stock(product, kettle) == 3


async def test_refused_hold_leaves_no_trace_and_fails_no_other_command_of_the_batch(product: Client) -> None:
    plenty, few = await products(product, 1, stock=9) + await products(product, 1, stock=1)
    refused_order, order = order_id(), order_id()
    refused, applied = await product.command(hold(refused_order, **{plenty: 2, few: 2}), hold(order, **{plenty: 9}))
    assert (refused["outcome"], refused["problem"]["product_ids"]) == ("refused", [few])
    assert applied["outcome"] == "applied"
    assert (await stock(product, plenty), await stock(product, few)) == (0, 1)
    assert await product.holds(refused_order) == {}


async def test_a_repeated_batch_gets_identical_outcomes_and_changes_nothing(product: Client) -> None:
    (kettle,) = await products(product, 1, stock=3)
    batch = [hold(order_id(), **{kettle: 2}), hold(order_id(), **{kettle: 2}), hold(order_id(), nowhere=1)]
    outcomes = await product.command(*batch)
    assert [outcome["outcome"] for outcome in outcomes] == ["applied", "refused", "refused"]
    await product.post(f"/v1/products/{kettle}/stock", {"delta": 5})
    assert await product.command(*batch) == outcomes
    assert await stock(product, kettle) == 6


async def test_concurrent_copies_of_a_command_have_one_effect(product: Client) -> None:
    (kettle,) = await products(product, 1, stock=50)
    command = hold(order_id(), **{kettle: 3})
    outcomes = await asyncio.gather(*(product.command(command, command) for _ in range(20)))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert await stock(product, kettle) == 47


async def test_undo_releases_a_hold_once(product: Client) -> None:
    (kettle,) = await products(product, 1, stock=3)
    order = order_id()
    await product.command(hold(order, **{kettle: 3}))
    for _ in range(3):
        assert await product.command(restore(order)) == [{"outcome": "applied", "result": {}}]
    assert await stock(product, kettle) == 3
    assert await product.holds(order) == {}


async def test_a_late_hold_after_its_undo_is_fenced(product: Client) -> None:
    (kettle,) = await products(product, 1, stock=3)
    order = order_id()
    await product.command(restore(order))
    (late,) = await product.command(hold(order, **{kettle: 1}))
    assert (late["outcome"], late["problem"]["type"]) == ("refused", "/problems/fenced")
    assert await stock(product, kettle) == 3


async def test_outcomes_of_an_order_can_be_read(product: Client) -> None:
    (kettle,) = await products(product, 1, stock=3)
    order = order_id()
    (outcome,) = await product.command(hold(order, **{kettle: 1}))
    stored = await product.get(f"/internal/v1/outcomes/{order}")
    assert stored["outcomes"][0].pop("decided_at")
    assert stored == {
        "order_id": order,
        "closed": False,
        "outcomes": [{"type": "hold_stock", "attempt": 0, **outcome}],
    }
    await product.command(restore(order))
    stored = await product.get(f"/internal/v1/outcomes/{order}")
    assert (stored["closed"], [item["type"] for item in stored["outcomes"]]) == (True, ["hold_stock", "restore_stock"])


async def test_one_product_named_twice_is_refused_as_input(product: Client) -> None:
    lines = [{"product_id": "a", "quantity": 1}, {"product_id": "a", "quantity": 2}]
    body = {"commands": [{"type": "hold_stock", "order_id": order_id(), "lines": lines}]}
    answer = await product.call("POST", "/internal/v1/commands", body)
    assert (answer.status, answer.problem) == (422, "validation-failed")


async def test_largest_batch_of_largest_holds_leaves_the_exact_rest_of_the_largest_stock(
    product: Client,
) -> None:
    (name,) = await products(product, 1, 2**63 - 1)
    outcomes = await product.command(*(hold(order_id(), **{name: 1000}) for _ in range(COMMANDS_MAX)))
    assert {outcome["outcome"] for outcome in outcomes} == {"applied"}
    assert await stock(product, name) == 2**63 - 1 - 1000 * COMMANDS_MAX


async def test_60_concurrent_buyers_of_5_units_get_5(product: Client) -> None:
    (kettle,) = await products(product, 1, stock=5)
    outcomes = await asyncio.gather(*(product.command(hold(order_id(), **{kettle: 1})) for _ in range(60)))
    assert Counter(outcome["outcome"] for (outcome,) in outcomes) == {"applied": 5, "refused": 55}
    assert await stock(product, kettle) == 0


async def test_replicas_that_work_on_crossing_products_neither_deadlock_nor_lose_an_update(
    product: Client, database_url: str
) -> None:
    shelf = await products(product, 6, stock=30)
    rng = random.Random(7)
    orders = [order_id() for _ in range(40)]
    holds = [hold(order, **{name: rng.randint(1, 3) for name in rng.sample(shelf, 3)}) for order in orders]
    splits = REGISTRY.get_sample_value("batches_split_total")
    async with replicas("product", database_url) as running:
        # Every replica gets every command three times, in a different order.
        answers = await asyncio.gather(
            *(in_some_order(replica.command, holds * 3, seed) for seed, replica in enumerate(running))
        )
        assert all(answer == answers[0] for answer in answers)
        assert {outcome["outcome"] for outcome in answers[0]} == {"applied", "refused"}
        late = [hold(order_id(), **dict.fromkeys(rng.sample(shelf, 3), 1)) for _ in range(50)]
        work = [*map(restore, orders[::2]), *late]
        await asyncio.gather(*(in_some_order(replica.command, work, seed) for seed, replica in enumerate(running)))
    assert REGISTRY.get_sample_value("batches_split_total") == splits, "a deadlock would have split a batch"
    taken: Counter[str] = Counter()
    holds_now = await product.holds(*orders, *(command["order_id"] for command in late))
    assert not holds_now.keys() & set(orders[::2])
    for units in holds_now.values():
        taken.update({name: int(quantity) for name, quantity in units.items()})
    assert {name: await stock(product, name) for name in shelf} == {name: 30 - taken[name] for name in shelf}
