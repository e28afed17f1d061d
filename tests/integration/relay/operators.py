"""Parked events, and calls of the operators' command line."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.relay.admin import __main__ as command_line
from services.relay.admin import acts
from shared.operators import Who
from shared.postgres.connections import Pool
from tests.infrastructure.command_line import CommandResult, run_command
from tests.infrastructure.pipeline import Event, Pipeline, order_in, write

GOLDEN = Path(__file__).parents[2] / "contract" / "golden" / "v1" / "events" / "order.paid.v1.json"
SUE = Who("sue", "a test")
NO_PARTITION = 999_999


def an_order(*, lines: int = 1) -> bytes:
    """Return the data of a paid order with `lines` lines."""
    data = json.loads(GOLDEN.read_text())["data"]
    data["lines"] *= lines
    return json.dumps(data, separators=(",", ":")).encode()


async def park(connection: asyncpg.Connection, *events: Event) -> None:
    """Park events as the relay does; the first of them is the refused one."""
    for number, event in enumerate(events):
        await connection.execute(
            "UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = $2 WHERE event_id = $1",
            event.event_id,
            "follows a parked event" if number else "MessageSizeTooLargeError",
        )


async def parked_order(pipeline: Pipeline, count: int, *, shard: int = 0, payload: bytes | None = None) -> list[Event]:
    """Write a new order whose events are all parked."""
    order_id = order_in(shard)
    events = [Event(order_id, number + 1, payload=payload or an_order()) for number in range(count)]
    await write(pipeline.connection, events)
    await park(pipeline.connection, *events)
    return events


async def event_statuses(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    """Return the order, sequence and status of every event, in order of writing."""
    rows = await pipeline.connection.fetch("SELECT order_id, sequence, status FROM orders.outbox ORDER BY outbox_id")
    return [tuple(row) for row in rows]


async def statuses_of(pipeline: Pipeline, order_id: UUID) -> list[str]:
    """Return the statuses of an order's events, in sequence."""
    return [status for found, _, status in await event_statuses(pipeline) if found == order_id]


@asynccontextmanager
async def operating(pipeline: Pipeline) -> AsyncIterator[Pool]:
    """Open a pool with the relay's role, like the operators' API."""
    async with Pool(pipeline.settings(), "relay admin") as pool:
        yield pool


async def act(pipeline: Pipeline, name: acts.Name, id_: UUID, *, dry_run: bool = False) -> list[int]:
    """Act, and return the sequences of the events concerned."""
    async with operating(pipeline) as pool:
        return [event["sequence"] for event in await acts.act(pool, name, id_, SUE, dry_run=dry_run)]


@asynccontextmanager
async def removed(pipeline: Pipeline, up_to: datetime) -> AsyncIterator[None]:
    """During the body, a partition that was published by then has been dropped."""
    await pipeline.connection.execute(
        "INSERT INTO orders.outbox_partitions (partition, opened_at, closed_at, published_at, dropped_at)"
        " VALUES ($1, $2, $2, $2, $2)",
        NO_PARTITION,
        up_to,
    )
    try:
        yield
    finally:
        await pipeline.connection.execute("DELETE FROM orders.outbox_partitions WHERE partition = $1", NO_PARTITION)


async def command(pipeline: Pipeline, *arguments: str) -> CommandResult:
    """Run the command line with the relays' settings."""
    environment = {"RELAY_DATABASE_URL": pipeline.url, "KAFKA_BOOTSTRAP_SERVERS": pipeline.kafka}
    return await run_command(command_line, environment, *arguments)
