"""Races of payment, cancellation and expiry for one order, at two replicas around the time at which it expires."""

import asyncio
import random
from collections import Counter

import asyncpg

from tests.faults.customers import Customers, Purchase

AT_A_TIME = 100
# The sagas of an order and their ends, by its final status. One of three racers wins. Only a paid order can be closed
# again.
ENDS = {
    "PAID": {"pay DONE"},
    "REFUNDED": {"pay DONE, close COMPENSATED"},
    "CANCELLED": {"close COMPENSATED"},
    "EXPIRED": {"close COMPENSATED"},
}
HISTORIES = """
    SELECT o.order_id, o.status, coalesce(string_agg(s.kind || ' ' || s.status, ', ' ORDER BY s.started_at)
        FILTER (WHERE s.kind <> 'place_later'), '') AS sagas
    FROM orders.orders AS o JOIN orders.sagas AS s USING (order_id)
    WHERE o.expires_at IS NOT NULL AND o.status <> 'PENDING_PAYMENT' AND o.order_id = ANY ($1::uuid[])
    GROUP BY o.order_id, o.status
"""


async def race(customers: Customers, rng: random.Random, count: int, timeout_seconds: float) -> list[Purchase]:
    """Run `count` races; return the purchase of each, with its answers."""
    places = asyncio.Semaphore(AT_A_TIME)

    async def one() -> Purchase:
        async with places:
            purchase = await customers.begin(rng.choice(["later, raced", "later, coupon, raced"]), rng)
            # Expiry happens by itself; the other operations come shortly before or after it.
            moment = timeout_seconds + rng.uniform(-0.7, 0.05)
            operations = [("payment", moment + rng.uniform(0, 0.1)), ("cancel", moment + rng.uniform(0, 0.25))]
            await asyncio.gather(*(customers.operate(purchase, name, rng, seconds) for name, seconds in operations))
            return purchase

    return await asyncio.gather(*(one() for _ in range(count)))


async def winners(url: str, races: list[Purchase]) -> tuple[Counter[str], list[str]]:
    """Return how often each operation won, and a line for every race whose history has not exactly one winner."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(HISTORIES, [purchase.order_id for purchase in races])
    finally:
        await connection.close()
    won = Counter({"REFUNDED": "PAID"}.get(row["status"], row["status"]) for row in rows)
    odd = [f"order {row['order_id']} is {row['status']} after {row['sagas']}" for row in rows]
    return won, [line for line, row in zip(odd, rows, strict=True) if row["sagas"] not in ENDS.get(row["status"], ())]
