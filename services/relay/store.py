"""One function per query. Each is one statement, so that no transaction stays open between two calls."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg

from services.relay.domain.batching import WALK_SECONDS
from services.relay.domain.events import OutboxEvent
from services.relay.domain.refusals import EventNotFirst, EventNotParked, NothingToRedact
from services.relay.domain.shards import Backlog, Lease, LeaseLost, ShardHolder, ShardLocked
from shared.operators import Who
from shared.postgres.connections import Connection, Row, load_queries

SQL = load_queries(Path(__file__).with_name("queries.sql"))
_LEASE_LOST = "RLY01"
_REFUSED = {"RLY02": EventNotParked, "RLY03": EventNotFirst, "RLY04": NothingToRedact}


async def cycle(
    connection: Connection,
    lease: Lease,
    number: int,
    *,
    lease_seconds: float,
    events_max: int,
    bytes_max: int,
    in_transaction: bool,
    timeout_seconds: float | None = None,
) -> list[OutboxEvent]:
    """Mark batch `number` SENT, claim the next one and renew the lease. Raises LeaseLost.

    The lease is renewed at the end, so a cycle may last longer than the lease: a replica that tries to take the shard
    over waits for its row, and then finds it held. `timeout_seconds` replaces the connection's own limit.
    """
    bounds = (lease_seconds, events_max, bytes_max, in_transaction)
    with _lease_lost():
        rows = await connection.fetch(SQL["cycle"], lease.shard, lease.epoch, number, *bounds, timeout=timeout_seconds)
    return list(map(OutboxEvent._make, rows))


async def cycle_together(
    connection: Connection,
    held: Mapping[Lease, int],
    *,
    lease_seconds: float,
    events_max: int,
    bytes_max: int,
    lock_seconds: float,
) -> Mapping[int, list[OutboxEvent]]:
    """Run the cycles of several shards, each with its batch number, in one commit; return the claimed events by shard.

    All batches are for a Kafka transaction, and `events_max` and `bytes_max` bound each.
    Raises LeaseLost if one of the shards is not held any more, ShardLocked if another transaction keeps a row locked
    for longer than `lock_seconds`. Then no shard was changed.
    """
    # The lock order: the same for every transaction that locks several.
    leases = sorted(held, key=lambda lease: lease.shard)
    shards = [lease.shard for lease in leases]
    epochs = [lease.epoch for lease in leases]
    numbers = [held[lease] for lease in leases]
    bounds = (lease_seconds, events_max, bytes_max, f"{int(lock_seconds * 1000)}ms")
    try:
        with _lease_lost():
            rows = await connection.fetch(SQL["cycle_together"], shards, epochs, numbers, *bounds)
    except asyncpg.LockNotAvailableError as error:
        raise ShardLocked(str(error)) from None
    claimed: dict[int, list[OutboxEvent]] = {shard: [] for shard in shards}
    for *event, shard in rows:
        claimed[shard].append(OutboxEvent._make(event))
    return claimed


async def note_transactional_id(connection: Connection, lease: Lease, transactional_id: str) -> None:
    """Record the transactional id of the shard's next batches. Raises LeaseLost.

    Call it while no batch of the shard is under way.
    """
    _fenced(await connection.fetchval(SQL["note_transactional_id"], lease.shard, lease.epoch, transactional_id))


async def take_lease(
    connection: Connection, shard: int, replica: str, lease_seconds: float, *, by_force: bool = False
) -> Lease | None:
    """Take a shard that is free, this replica's or, with `by_force`, any; None if another replica holds it."""
    row = await connection.fetchrow(SQL["take_lease"], shard, replica, lease_seconds, by_force)
    if row is None:
        return None
    return Lease(shard, row["epoch"], row["batch_number"], row["claimed"], row["declared"], row["transactional_id"])


async def release_lease(connection: Connection, lease: Lease) -> None:
    """Release a shard, unless another replica has it already."""
    await connection.execute(SQL["release_lease"], lease.shard, lease.epoch)


async def check_lease(connection: Connection, lease: Lease) -> None:
    """Raise LeaseLost if the shard is held under another epoch by now."""
    _fenced(await connection.fetchval(SQL["check_lease"], lease.shard, lease.epoch))


async def unclaim(connection: Connection, lease: Lease) -> int:
    """Undo the claim of the lease's batch, which was never published; return the number before it."""
    return _fenced(await connection.fetchval(SQL["unclaim"], lease.shard, lease.epoch, lease.number))


async def declare(connection: Connection, lease: Lease) -> int:
    """Begin at number 0 again, with nothing claimed, and return it."""
    return _fenced(await connection.fetchval(SQL["declare"], lease.shard, lease.epoch))


async def park(connection: Connection, lease: Lease, outbox_id: int, reason: str) -> int:
    """Park an event and the later ones of its order; return how many. The shard must have no claim."""
    return len(await connection.fetch(SQL["park"], lease.shard, lease.epoch, outbox_id, reason))


async def topic_partitions(connection: Connection, topic: str) -> tuple[int | None, datetime, int]:
    """Return how many partitions are recorded for a topic, None if none are, the database's time, and the number of
    shards."""
    row = await connection.fetchrow(SQL["topic_partitions"], topic)
    assert row is not None
    return row["partitions"], row["now"], row["shards"]


async def record_partitions(connection: Connection, topic: str, partitions: int, *, fewer: bool = False) -> int:
    """Record how many partitions a topic has and return the recorded number; only `fewer` lowers it."""
    recorded: int = await connection.fetchval(SQL["record_partitions"], topic, partitions, fewer)
    return recorded


async def shards_with_pending(connection: Connection, shards: Sequence[int]) -> list[int]:
    """Return which of the shards have pending events."""
    return [row["shard"] for row in await connection.fetch(SQL["shards_with_pending"], shards)]


async def keep_replica(connection: Connection, replica: str, seconds: float) -> None:
    """Record that this replica is alive."""
    await connection.execute(SQL["keep_replica"], replica, seconds)


async def live_replicas(connection: Connection) -> list[str]:
    """Return the live replicas, in the same order for every caller."""
    return [row["replica"] for row in await connection.fetch(SQL["live_replicas"])]


async def forget_replicas(connection: Connection, replica: str) -> None:
    """Remove this replica from the list, and replicas that ended without doing so."""
    await connection.execute(SQL["forget_replicas"], replica)


async def shards(connection: Connection) -> list[ShardHolder]:
    """Return every shard with its holder."""
    rows = await connection.fetch(SQL["shards"])
    return [ShardHolder(row["shard"], None if row["expired"] else row["holder"]) for row in rows]


async def backlog(connection: Connection, count_max: int, *, timeout_seconds: float | None = None) -> list[Backlog]:
    """Return the backlog of every shard, counted up to `count_max`."""
    return [Backlog(**row) for row in await connection.fetch(SQL["backlog"], count_max, timeout=timeout_seconds)]


async def outbox_partitions(connection: Connection, kept_seconds: float) -> Row:
    """Return how the outbox is stored.

    `attached` counts its partitions, the next one included; `kept` those that were closed for `kept_seconds` and hold
    unpublished events. `oldest_seconds` is how long ago the oldest began to be filled.
    """
    row = await connection.fetchrow(SQL["outbox_partitions"], kept_seconds)
    assert row is not None
    return row


async def hold_leadership(connection: Connection, seconds: float, *, leadership: str, holder: str) -> bool:
    """Take the leadership of that name or extend its lease by `seconds`; return whether `holder` has it now."""
    return await connection.fetchrow(SQL["hold_leadership"], leadership, holder, seconds) is not None


async def rotate_outbox(connection: Connection, interval_seconds: float) -> str | None:
    """Take the next step of a rotation, if one is due, and return the step's name; rotate every `interval_seconds`.

    Never call it in a transaction: each step has to be committed before the next one.
    """
    step: str | None = await connection.fetchval(SQL["rotate_outbox"], interval_seconds)
    return step


async def note_published(connection: Connection) -> None:
    """Mark closed partitions whose events are all published: claims skip them, and they are dropped later."""
    # Once per partition it may pass over a dead index entry for each published event; no caller waits for it.
    await connection.execute(SQL["note_published"], timeout=WALK_SECONDS)


async def drop_published(connection: Connection, retention_seconds: float) -> int | None:
    """Drop the oldest partition that was published longer ago than that, if there is one, and return its number.

    Raises asyncpg.LockNotAvailableError if the outbox is in use just now.
    """
    partition: int | None = await connection.fetchval(SQL["drop_published"], retention_seconds)
    return partition


async def removed_up_to(connection: Connection) -> datetime | None:
    """Return the newest time of which events may have been removed; None if none have been."""
    timestamp: datetime | None = await connection.fetchval(SQL["removed_up_to"])
    return timestamp


async def list_parked(connection: Connection, limit: int) -> list[Row]:
    """Return parked events by order, in sequence."""
    return list(await connection.fetch(SQL["list_parked"], limit))


async def list_parked_orders(connection: Connection, after: UUID, limit: int) -> list[UUID]:
    """Return the first orders after that one that have parked events."""
    return [row["order_id"] for row in await connection.fetch(SQL["list_parked_orders"], after, limit)]


async def act_on_parked(connection: Connection, act: str, id_: UUID, who: Who, *, dry_run: bool) -> list[Row]:
    """Do one act and record it in one commit, or only find its events with `dry_run`; return the events.

    Raises EventNotParked, EventNotFirst or NothingToRedact.
    """
    try:
        return list(await connection.fetch(SQL["act_on_parked"], act, id_, who.actor, who.reason, dry_run))
    except asyncpg.PostgresError as error:
        if error.sqlstate in _REFUSED:
            raise _REFUSED[error.sqlstate](str(error)) from None
        raise


async def list_acts(connection: Connection, limit: int) -> list[Row]:
    """Return the operators' acts, newest first."""
    return list(await connection.fetch(SQL["list_acts"], limit))


@contextmanager
def _lease_lost() -> Iterator[None]:
    """Translate the error that a cycle raises under an older epoch into LeaseLost."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if error.sqlstate == _LEASE_LOST:
            raise LeaseLost(str(error)) from None
        raise


def _fenced(number: int | None) -> int:
    if number is None:
        raise LeaseLost("the shard is held under another epoch")
    return number
