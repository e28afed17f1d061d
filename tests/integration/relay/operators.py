"""Parked events to act on, and the operators' command line as a call."""

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
from shared.postgres import Pool
from tests.infrastructure.command_line import Said, said
from tests.integration.relay.world import Event, World, order_in, write

GOLDEN = Path(__file__).parents[2] / "contract" / "golden" / "v1" / "events" / "order.paid.v1.json"
SUE = Who("sue", "a test")
NO_PARTITION = 999_999


def an_order(*, lines: int = 1) -> bytes:
    """The data of a paid order with so many lines."""
    data = json.loads(GOLDEN.read_text())["data"]
    data["lines"] *= lines
    return json.dumps(data, separators=(",", ":")).encode()


async def park(connection: asyncpg.Connection, *events: Event) -> None:
    """Set events aside as the relay does; the first of them is the one that was refused."""
    for number, event in enumerate(events):
        await connection.execute(
            "UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = $2 WHERE event_id = $1",
            event.event_id,
            "follows a parked event" if number else "MessageSizeTooLargeError",
        )


async def parked_order(world: World, count: int, *, shard: int = 0, payload: bytes | None = None) -> list[Event]:
    """A new order whose events are all parked."""
    order_id = order_in(shard)
    events = [Event(order_id, number + 1, payload=payload or an_order()) for number in range(count)]
    await write(world.connection, events)
    await park(world.connection, *events)
    return events


async def told(world: World) -> list[tuple[Any, ...]]:
    """Order, sequence and status of every event, in the order in which they were written."""
    rows = await world.connection.fetch("SELECT order_id, sequence, status FROM orders.outbox ORDER BY outbox_id")
    return [tuple(row) for row in rows]


async def statuses_of(world: World, order_id: UUID) -> list[str]:
    """The statuses of an order's events, in sequence."""
    return [status for found, _, status in await told(world) if found == order_id]


@asynccontextmanager
async def operating(world: World) -> AsyncIterator[Pool]:
    """A pool with the relay's role, as the operators' side has it."""
    async with Pool(world.settings(), "relay admin") as pool:
        yield pool


async def act(world: World, name: acts.Name, id_: UUID, *, dry_run: bool = False) -> list[int]:
    """Act, and return the sequences of the events concerned."""
    async with operating(world) as pool:
        return [event["sequence"] for event in await acts.act(pool, name, id_, SUE, dry_run=dry_run)]


@asynccontextmanager
async def removed(world: World, up_to: datetime) -> AsyncIterator[None]:
    """Within, a partition that was published by then has been dropped."""
    await world.connection.execute(
        "INSERT INTO orders.outbox_partitions (partition, opened_at, closed_at, published_at, dropped_at)"
        " VALUES ($1, $2, $2, $2, $2)",
        NO_PARTITION,
        up_to,
    )
    try:
        yield
    finally:
        await world.connection.execute("DELETE FROM orders.outbox_partitions WHERE partition = $1", NO_PARTITION)


async def command(world: World, *arguments: str) -> Said:
    """Run the command line with the settings that relays have here."""
    environment = {"RELAY_DATABASE_URL": world.url, "KAFKA_BOOTSTRAP_SERVERS": world.kafka}
    return await said(command_line, environment, *arguments)
