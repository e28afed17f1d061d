"""Every event of the order service fits the schema that the relay publishes, and has no other fields."""

import json
from typing import Any

import asyncpg
import pytest
from jsonschema import Draft202012Validator

from shared.contracts.events import EVENTS
from tests.infrastructure.shopping import PATIENCE_SECONDS, a_coupon, a_product, a_user, an_order
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import eventually

CHECKER = Draft202012Validator.FORMAT_CHECKER


async def outbox(stack: Stack) -> list[asyncpg.Record]:
    """Return every event of the stack's database, with the values of its headers."""
    connection = await asyncpg.connect(stack.database.url)
    try:
        rows: list[asyncpg.Record] = await connection.fetch("SELECT * FROM orders.outbox")
        return rows
    finally:
        await connection.close()


async def place(shop: Shop, **fields: Any) -> str:
    user = await a_user(shop)
    order = await shop.order.post("/v1/orders", an_order(user, await a_product(shop), **fields))
    return str(order["order_id"])


async def every_way(shop: Shop, stack: Stack) -> set[str]:
    """Place orders of every possible flow; return the one that has yet to expire."""
    user = await a_user(shop)
    with_coupon = an_order(user, await a_product(shop), coupon_id=await a_coupon(shop, user))
    await shop.order.post("/v1/orders", with_coupon)
    refunded, free = await place(shop), await a_product(shop, price=0)
    await shop.order.post(f"/v1/orders/{refunded}/cancel", None)
    await shop.order.post("/v1/orders", an_order(user, free))
    paid, cancelled, expired = [await place(shop, payment="later") for _ in range(3)]
    await shop.order.post(f"/v1/orders/{paid}/payment", None)
    await shop.order.post(f"/v1/orders/{cancelled}/cancel", None)
    connection = await asyncpg.connect(stack.database.url)
    await connection.execute("UPDATE orders.orders SET expires_at = now() WHERE order_id = $1", expired)
    await connection.close()
    return {expired}


async def test_every_event_that_is_really_written_fits_its_schema(shop: Shop, stack: Stack) -> None:
    (expired,) = await every_way(shop, stack)

    async def has_expired() -> bool:
        rows = await outbox(stack)
        return any(str(row["order_id"]) == expired and row["type"] == "order.expired.v1" for row in rows)

    await eventually(has_expired, PATIENCE_SECONDS, "the expired order's event")
    rows = await outbox(stack)
    assert {row["type"] for row in rows} == set(EVENTS)
    listed = (await shop.relay.get("/schemas"))["items"]
    schemas = {one["type"]: await shop.relay.get(one["path"]) for one in listed}
    for row in rows:
        Draft202012Validator(schemas[row["type"]], format_checker=CHECKER).validate(json.loads(row["payload"]))
        EVENTS[row["type"]].model_validate_json(row["payload"])  # refuses a field that no schema describes


async def test_the_relay_publishes_the_document_of_the_topic(shop: Shop, stack: Stack) -> None:
    document = await shop.relay.get("/asyncapi.json")
    assert document["asyncapi"].startswith("3.")
    assert document["channels"]["orders"]["address"] == stack.topic
    assert set(document["channels"]["orders"]["messages"]) == set(EVENTS)


@pytest.mark.parametrize("path", ["/schemas/order.lost.v1.json", "/schemas/%00.json", "/schemas/order.paid.v1"])
async def test_unknown_type_is_a_problem(shop: Shop, path: str) -> None:
    answer = await shop.relay.call("GET", path)
    assert (answer.status, answer.problem) == (404, "not-found")
