"""What has gone wrong before the commands of a section run, by the words of the runbook's comments."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import aiohttp
import asyncpg

from services.order.admin import __main__ as order_admin
from tests.infrastructure.command_line import run_command
from tests.infrastructure.sagas import LIVE
from tests.infrastructure.shopping import a_product, a_user, an_order
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import eventually

WAIT_SECONDS = 60
Variables = Mapping[str, str]


async def a_running_saga(stack: Stack, shop: Shop) -> Variables:
    """Let the product service hang, and place an order; its saga waits for it."""
    product, user = await a_product(shop), await a_user(shop)
    stack.signal("product", signal.SIGSTOP)
    placing = asyncio.create_task(shop.order.call("POST", "/v1/orders", an_order(user, product)))
    connection = await asyncpg.connect(stack.database.url)
    try:
        query = "SELECT saga_id::text, order_id::text FROM orders.sagas JOIN orders.orders USING (order_id)"

        async def began() -> asyncpg.Record | None:
            return await connection.fetchrow(f"{query} WHERE user_id = $1 AND ended_at IS NULL", user)

        row = await eventually(began, WAIT_SECONDS, "a saga")
        assert row is not None
    finally:
        await connection.close()
        placing.cancel()
        with suppress(asyncio.CancelledError, aiohttp.ClientError):
            await placing
    return {"SAGA": row["saga_id"], "ORDER_ID": row["order_id"]}


async def a_stuck_saga(stack: Stack, shop: Shop) -> Variables:
    """Let it undo the order, too, and mark it as stuck: that takes a minute of failed undos."""
    found = await a_running_saga(stack, shop)
    environment = {"ORDER_DATABASE_URL": stack.database.as_role("order_service")}
    forced = await run_command(order_admin, environment, "force", found["SAGA"], "--by", "x", "--reason", "a test")
    assert forced.status == 0, forced
    connection = await asyncpg.connect(stack.database.url)
    try:
        await connection.execute("UPDATE orders.sagas SET stuck = true WHERE saga_id = $1::uuid", found["SAGA"])
    finally:
        await connection.close()

    async def noticed() -> bool:
        readiness = await shop.order.get("/readyz")
        return readiness["participants_reachable"]["product"] is False

    await eventually(noticed, WAIT_SECONDS, "a failed call of the product service")
    return {}


async def another_stuck_saga(stack: Stack, shop: Shop) -> Variables:
    """The same; the section's first commands are not repeated, so it names the saga."""
    await a_stuck_saga(stack, shop)
    connection = await asyncpg.connect(stack.database.url)
    try:
        saga = await connection.fetchval("SELECT saga_id::text FROM orders.sagas WHERE stuck AND ended_at IS NULL")
    finally:
        await connection.close()
    return {"SAGA": saga}


async def product_is_back(stack: Stack, _: Shop) -> Variables:
    """Let the product service continue."""
    stack.signal("product", signal.SIGCONT)
    return {}


async def a_parked_event(stack: Stack, shop: Shop) -> Variables:
    """Park the event of a new order, as if Kafka had refused it."""
    product, user = await a_product(shop), await a_user(shop)
    placed = await shop.order.post("/v1/orders", an_order(user, product))
    connection = await asyncpg.connect(stack.database.url)
    try:
        parked = "status = 'PARKED', sent_at = NULL, parked_at = now(), parked_reason = 'too large'"

        async def park() -> bool:
            query = f"UPDATE orders.outbox SET {parked} WHERE order_id = $1::uuid AND status = 'SENT'"
            return (await connection.execute(query, placed["order_id"])) == "UPDATE 1"

        await eventually(park, WAIT_SECONDS, "a published event")
    finally:
        await connection.close()
    return {}


async def healed(stack: Stack) -> None:
    """End what a section began: everything runs, and no saga is live."""
    stack.signal("product", signal.SIGCONT)
    connection = await asyncpg.connect(stack.database.url)
    try:

        async def ended() -> bool:
            return bool(await connection.fetchval(LIVE) == 0)

        await eventually(ended, WAIT_SECONDS, "the end of all sagas")
    finally:
        await connection.close()


SITUATIONS: Mapping[str, Callable[[Stack, Shop], Awaitable[Variables]]] = {
    "a saga is stuck": a_stuck_saga,
    "another saga is stuck": another_stuck_saga,
    "a saga does not end": a_running_saga,
    "the participant is back": product_is_back,
    "an event is parked": a_parked_event,
}
