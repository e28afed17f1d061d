"""Queries of the watermark, digests and published events: one function and one statement each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.relay.store import SQL
from shared.postgres.connections import Connection, Row


@dataclass(frozen=True, slots=True)
class WatermarkAdvance:
    """The watermark and its first exceptions; `up_to` is None until there was a watermark."""

    epoch: int
    up_to: datetime | None
    missing: Sequence[Mapping[str, Any]]
    missing_count: int


@dataclass(frozen=True, slots=True)
class WatermarkStatus:
    """The watermark and its lag, by the database's clock, and how many shards there are."""

    up_to: datetime | None
    lag_seconds: float | None
    now: datetime
    shards: int


async def advance_watermark(
    connection: Connection,
    replica: str,
    lease_seconds: float,
    missing_max: int,
    *,
    timeout_seconds: float | None = None,
) -> WatermarkAdvance | None:
    """Take or keep the leadership and advance the watermark if possible; None if another replica is the leader."""
    row = await connection.fetchrow(
        SQL["advance_watermark"], replica, lease_seconds, missing_max, timeout=timeout_seconds
    )
    return None if row is None else WatermarkAdvance(**row)


async def release_watermark(connection: Connection, replica: str) -> None:
    """Release the leadership, if this replica has it."""
    await connection.execute(SQL["release_watermark"], replica)


async def watermark(connection: Connection) -> WatermarkStatus:
    """Return the watermark and its lag, and the number of shards."""
    row = await connection.fetchrow(SQL["watermark"])
    assert row is not None
    return WatermarkStatus(**row)


async def digest(connection: Connection, start: datetime, end: datetime, shard: int | None) -> list[Row]:
    """Return the digests of one bucket, of all shards or one, each with whether any of its events still waits."""
    return list(await connection.fetch(SQL["digest"], start, end, shard))


async def events_of_order(
    connection: Connection, order_id: UUID, first: int, last: int, limit: int, bytes_max: int
) -> list[Row]:
    """Return events of an order in sequence, with their payloads."""
    return list(await connection.fetch(SQL["events_of_order"], order_id, first, last, limit, bytes_max))


async def events_of_bucket(
    connection: Connection, shard: int, start: datetime, end: datetime, after: UUID, limit: int
) -> list[Row]:
    """Return the events of one bucket and shard in order of id, without their payloads."""
    return list(await connection.fetch(SQL["events_of_bucket"], shard, start, end, after, limit))
