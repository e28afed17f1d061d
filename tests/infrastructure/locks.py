"""Lets a test wait until a call waits for a lock."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import asyncpg

from tests.infrastructure.waiting import eventually

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
SECONDS = 2.0  # until a call waits; a call that never waits does not take the lock


async def waits(connection: asyncpg.Connection, call: Awaitable[Any]) -> "asyncio.Task[Any]":
    """Begin a call, and return its task once it waits for a lock; `connection` is another one to the database."""
    task = asyncio.ensure_future(call)

    async def waiting() -> int:
        await connection.execute("SELECT pg_stat_clear_snapshot()")  # kept to the end of a transaction
        count: int = await connection.fetchval(WAITING)
        return count

    await eventually(waiting, SECONDS, "a call that waits for a lock")
    assert isinstance(task, asyncio.Task)
    return task
