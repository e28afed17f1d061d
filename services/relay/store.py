"""One function per query; each is one statement, so that no transaction is ever open while the relay thinks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg

from services.relay.admin.refusals import EventNotFirst, EventNotParked, NothingToRedact
from services.relay.records import OutboxEvent
from shared.operators import Who
from shared.postgres import Connection, Row, load_queries

SQL = load_queries(Path(__file__).with_name("queries.sql"))
_LEASE_LOST = "RLY01"
_REFUSED = {"RLY02": EventNotParked, "RLY03": EventNotFirst, "RLY04": NothingToRedact}


class LeaseLost(Exception):  # noqa: N818 - expected: another replica has taken the shard over
    """The shard is held under a newer epoch."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a shard's row said when it was taken over.

    `claimed` counts the events of batch `number` that are not marked yet; `declared` tells whether number 0
    has been committed to Kafka.
    """

    shard: int
    epoch: int
    number: int
    claimed: int
    declared: bool


@dataclass(frozen=True, slots=True)
class ShardHolder:
    """Who holds a shard; nobody, if the lease is over."""

    shard: int
    holder: str | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of a shard is not published."""

    shard: int
    pending: int
    parked: int
    oldest_seconds: float


async def cycle(
    connection: Connection,
    lease: Lease,
    number: int,
    *,
    lease_seconds: float,
    events_max: int,
    bytes_max: int,
    in_transaction: bool,
) -> list[OutboxEvent]:
    """Mark batch `number` SENT, claim the next one and renew the lease. Raises LeaseLost."""
    try:
        rows = await connection.fetch(
            SQL["cycle"], lease.shard, lease.epoch, number, lease_seconds, events_max, bytes_max, in_transaction
        )
    except asyncpg.PostgresError as error:
        if error.sqlstate == _LEASE_LOST:
            raise LeaseLost(str(error)) from None
        raise
    return list(map(OutboxEvent._make, rows))


async def take_lease(
    connection: Connection, shard: int, replica: str, lease_seconds: float, *, by_force: bool = False
) -> Lease | None:
    """Take a shard that is free, ours or, `by_force`, anybody's, under the next epoch; None if it is another's."""
    row = await connection.fetchrow(SQL["take_lease"], shard, replica, lease_seconds, by_force)
    if row is None:
        return None
    return Lease(shard, row["epoch"], row["batch_number"], row["claimed"], row["declared"])


async def release_lease(connection: Connection, lease: Lease) -> None:
    """Let go of a shard, unless another has it already."""
    await connection.execute(SQL["release_lease"], lease.shard, lease.epoch)


async def unclaim(connection: Connection, lease: Lease) -> int:
    """Give up the claim on the lease's batch, which never got out; return the number before it."""
    return _fenced(await connection.fetchval(SQL["unclaim"], lease.shard, lease.epoch, lease.number))


async def declare(connection: Connection, lease: Lease) -> int:
    """Begin at number 0 again, with nothing claimed, and return it."""
    return _fenced(await connection.fetchval(SQL["declare"], lease.shard, lease.epoch))


async def park(connection: Connection, lease: Lease, outbox_id: int, reason: str) -> int:
    """Park an event and the later ones of its order; return how many. Nothing may be claimed meanwhile."""
    return len(await connection.fetch(SQL["park"], lease.shard, lease.epoch, outbox_id, reason))


async def shards_with_pending(connection: Connection, shards: Sequence[int]) -> list[int]:
    """Return which of the shards have something to publish."""
    return [row["shard"] for row in await connection.fetch(SQL["shards_with_pending"], shards)]


async def keep_replica(connection: Connection, replica: str, seconds: float) -> None:
    """Say that this replica lives."""
    await connection.execute(SQL["keep_replica"], replica, seconds)


async def live_replicas(connection: Connection) -> list[str]:
    """Return the replicas that live, in one order for all."""
    return [row["replica"] for row in await connection.fetch(SQL["live_replicas"])]


async def forget_replicas(connection: Connection, replica: str) -> None:
    """Say that this replica is no more, and clear away those that never said it."""
    await connection.execute(SQL["forget_replicas"], replica)


async def shards(connection: Connection) -> list[ShardHolder]:
    """Return every shard with its holder."""
    rows = await connection.fetch(SQL["shards"])
    return [ShardHolder(row["shard"], None if row["expired"] else row["holder"]) for row in rows]


async def backlog(connection: Connection, count_max: int) -> list[Backlog]:
    """Return what waits in every shard, counted up to `count_max`."""
    return [Backlog(**row) for row in await connection.fetch(SQL["backlog"], count_max)]


async def list_parked(connection: Connection, limit: int) -> list[Row]:
    """Return parked events, order by order in sequence."""
    return list(await connection.fetch(SQL["list_parked"], limit))


async def list_parked_orders(connection: Connection, limit: int) -> list[UUID]:
    """Return the orders that have parked events."""
    return [row["order_id"] for row in await connection.fetch(SQL["list_parked_orders"], limit)]


async def act_on_parked(connection: Connection, act: str, id_: UUID, who: Who, *, dry_run: bool) -> list[Row]:
    """Do one act and record it in one commit, or only say what it would concern; return the events concerned.

    Raises EventNotParked, EventNotFirst or NothingToRedact.
    """
    try:
        return list(await connection.fetch(SQL["act_on_parked"], act, id_, who.actor, who.reason, dry_run))
    except asyncpg.PostgresError as error:
        if error.sqlstate in _REFUSED:
            raise _REFUSED[error.sqlstate](str(error)) from None
        raise


async def list_acts(connection: Connection, limit: int) -> list[Row]:
    """Return what operators did, newest first."""
    return list(await connection.fetch(SQL["list_acts"], limit))


def _fenced(number: int | None) -> int:
    if number is None:
        raise LeaseLost("the shard is held under another epoch")
    return number
