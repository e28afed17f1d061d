"""Sums over all cells and product shards, which must be what was put in; and the events that the consumer must have."""

from collections.abc import Mapping, Sequence

import asyncpg

from tests.drills.cells.load import PRODUCTS_OF_A_SHARD, USERS_OF_A_CELL
from tests.drills.load import BALANCE, STOCK
from tests.drills.verdict import connected
from tests.infrastructure.waiting import eventually

READ_SECONDS = 30
LEFT = "SELECT sum(stock)::bigint FROM products.products"
SOLD = """
    SELECT coalesce(sum((line ->> 'quantity')::bigint), 0)::bigint
    FROM orders.orders, jsonb_array_elements(lines) AS line WHERE status = 'PAID'
"""
MONEY = "SELECT sum(balance)::bigint FROM balances.accounts"
PAID = "SELECT coalesce(sum(total_amount), 0)::bigint FROM orders.orders WHERE status = 'PAID'"
PUBLISHED = "SELECT event_id FROM orders.outbox"
RECEIVED = "SELECT event_id FROM platform.inbox WHERE topic = $1 AND state = 'APPLIED'"


async def differences(topics: Mapping[str, str], shards: Sequence[str], consumer: str) -> list[str]:
    """Return a line for each sum that is not what it must be, and for each topic that the consumer has not read.

    `topics`: of the cells, with the address of a cell's database. `shards`, `consumer`: addresses of their databases.
    """
    cells = list(topics.values())
    lines = _sum(
        "units", await _total(shards, LEFT), await _total(cells, SOLD), STOCK * PRODUCTS_OF_A_SHARD * len(shards)
    )
    lines += _sum(
        "money", await _total(cells, MONEY), await _total(cells, PAID), BALANCE * USERS_OF_A_CELL * len(cells)
    )
    async with connected(consumer) as records:
        for topic, url in topics.items():
            async with connected(url) as cell:
                published = {row["event_id"] for row in await cell.fetch(PUBLISHED)}
            lines += await _read(records, topic, published)
    return lines


async def _total(urls: Sequence[str], query: str) -> int:
    total = 0
    for url in urls:
        async with connected(url) as connection:
            total += await connection.fetchval(query)
    return total


def _sum(what: str, left: int, gone: int, put_in: int) -> list[str]:
    return [] if left + gone == put_in else [f"{what}: {left} are left and {gone} went into orders, of {put_in}"]


async def _read(records: "asyncpg.Connection", topic: str, published: set[object]) -> list[str]:
    """Wait until the consumer has as many events of a topic; return a line if they are not these."""
    received: set[object] = set()

    async def all_are_read() -> bool:
        received.clear()
        received.update(row["event_id"] for row in await records.fetch(RECEIVED, topic))
        return len(received) >= len(published)

    await eventually(all_are_read, READ_SECONDS, f"the events of {topic} at the consumer")
    return [] if received == published else [f"{topic}: {len(received ^ published)} events differ at the consumer"]
