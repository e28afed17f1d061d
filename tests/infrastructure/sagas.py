"""Waits for the end of sagas, using the order service's database."""

import asyncpg

from tests.infrastructure.waiting import eventually

LIVE = "SELECT count(*) FROM orders.sagas WHERE status IN ('RUNNING', 'COMPENSATING')"
# Unpaid orders without a saga: all of them, and those that are past `expires_at`.
UNPAID = "SELECT count(*) FROM orders.orders WHERE status = 'PENDING_PAYMENT' AND closing IS NULL"
DUE = "SELECT count(*) FROM orders.orders WHERE status = 'PENDING_PAYMENT' AND expires_at <= now()"
UNPUBLISHED = "SELECT count(*) FROM orders.outbox WHERE status = 'PENDING'"


async def sagas_ended(db: asyncpg.Connection | asyncpg.Pool, seconds: float, *further: str) -> None:
    """Wait until no saga is live, and until each of the `further` queries counts 0."""
    query = "SELECT " + " + ".join(f"({count})" for count in (LIVE, *further))

    async def nothing_is_left() -> bool:
        return bool(await db.fetchval(query) == 0)

    await eventually(nothing_is_left, seconds, "the end of all sagas")
