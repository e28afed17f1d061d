"""The queries of the watermark, the digest and the history, one function each; like store.py, each is one statement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.relay.store import SQL
from shared.postgres import Connection, Row


@dataclass(frozen=True, slots=True)
class WatermarkAdvance:
    """How far the topic is complete, and the first of the exceptions; `up_to` is None until that was found once."""

    epoch: int
    up_to: datetime | None
    missing: Sequence[Mapping[str, Any]]
    missing_count: int


@dataclass(frozen=True, slots=True)
class WatermarkStatus:
    """How far the topic is complete, by the database's clock."""

    up_to: datetime | None
    lag_seconds: float | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Digest:
    """What was sent of one bucket in one shard, and whether anything of it may still come."""

    shard: int
    count: int
    hash: str
    any_waiting: bool


async def advance_watermark(
    connection: Connection,
    replica: str,
    lease_seconds: float,
    missing_max: int,
    *,
    timeout_seconds: float | None = None,
) -> WatermarkAdvance | None:
    """Take or keep the duty and close the marked moment, if it can be closed; None if another replica has the duty."""
    row = await connection.fetchrow(
        SQL["advance_watermark"], replica, lease_seconds, missing_max, timeout=timeout_seconds
    )
    return None if row is None else WatermarkAdvance(**row)


async def release_watermark(connection: Connection, replica: str) -> None:
    """Leave the duty, if it is this replica's."""
    await connection.execute(SQL["release_watermark"], replica)


async def watermark(connection: Connection) -> WatermarkStatus:
    """Return how far the topic is complete."""
    row = await connection.fetchrow(SQL["watermark"])
    assert row is not None
    return WatermarkStatus(**row)


async def digest(connection: Connection, start: datetime, end: datetime, shard: int | None) -> list[Digest]:
    """Return the digests of one bucket, of all shards or one."""
    return [Digest(**row) for row in await connection.fetch(SQL["digest"], start, end, shard)]


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
