"""One function for each query of queries.sql, which says what the query does and which parameters it has.

Each function takes a connection; the transaction is the caller's. The functions at the end only run their query.
`migrate`, the last one, makes the tables.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka.structs import ConsumerRecord

from .events import NOT_STORABLE, Event, Order, identity, minute_of
from .runtime import Connection, Pool, Unavailable
from .settings import ConsumerSettings

MIGRATE_SECONDS = 600.0
Row = asyncpg.Record
_PARTS = re.split(r"^-- name: (\w+)\s*$", Path(__file__).with_name("queries.sql").read_text(), flags=re.MULTILINE)
SQL: Mapping[str, str] = dict(zip(_PARTS[1::2], _PARTS[2::2], strict=True))


def _query(name: str, method: str) -> Callable[..., Awaitable[Any]]:
    """Return a function that runs a query with a method of the connection, and returns what that method returns."""
    return lambda db, *parameters: getattr(db, method)(SQL[name], *parameters)


async def begin_partitions(db: Connection, topic: str, positions: Mapping[int, int]) -> None:
    """Store the first position of partitions that have none."""
    await db.executemany(SQL["begin_partitions"], [(topic, *one) for one in sorted(positions.items())])


async def positions(db: Connection, topic: str) -> dict[int, int]:
    """Return the next offset to read, by partition."""
    return {row["partition"]: row["position"] for row in await db.fetch(SQL["positions"], topic)}


async def move_positions(db: Connection, topic: str, moves: Mapping[int, tuple[int, int]]) -> bool:
    """Move partitions from an expected position to another. Return whether all had their expected position."""
    befores, afters = zip(*moves.values(), strict=True)
    return len(await db.fetch(SQL["move_positions"], topic, list(moves), befores, afters)) == len(moves)


async def lock_streams(db: Connection, order_ids: Sequence[UUID]) -> tuple[dict[UUID, int], dict[UUID, Order]]:
    """Lock the orders' streams, by ascending id. Return each one's last sequence, and the orders that are known."""
    await db.execute(SQL["begin_streams"], order_ids)
    sequences = {row["order_id"]: row["sequence"] for row in await db.fetch(SQL["lock_streams"], order_ids)}
    return sequences, {row["order_id"]: Order(*row[1:]) for row in await db.fetch(SQL["orders"], order_ids)}


async def insert_events(db: Connection, events: Sequence[tuple[Event, str, str | None]], source: str) -> None:
    """Store events, each with its state and the stream before it, as JSON.

    Resolve their dead letters, and mark their minutes to be compared again.
    """
    await db.executemany(SQL["insert_event"], [(*_columns(event), *rest, source) for event, *rest in events])
    await resolve_dead_letters(db, [event for event, *_ in events])
    minutes = {(event.topic, minute_of(event.occurred_at), event.shard) for event, *_ in events}
    await db.executemany(SQL["mark_bucket_stale"], sorted(minutes))


def _columns(event: Event) -> tuple[Any, ...]:
    identity = (event.event_id, event.order_id, event.sequence, event.type, event.occurred_at)
    return (*identity, event.shard, event.payload, event.sha256, *(event.place or (None, None)), event.topic)


async def insert_forged(db: Connection, event: Event, reason: str) -> bool:
    """Store a record that is not the relay's. Return whether it was lost in a restore."""
    place = event.place or (None, None)
    values = (event.event_id, event.order_id, event.sequence, event.type, event.occurred_at, event.payload)
    return bool(await db.fetchval(SQL["insert_forged"], *values, *place, reason, event.topic))


async def insert_dead_letters(db: Connection, letters: Sequence[tuple[ConsumerRecord, str]]) -> None:
    """Store records unchanged, with the values of their headers in hex, each with the reason.

    Names of headers and reasons lose the characters that Postgres can't store.
    """
    for record, reason in letters:
        headers = json.dumps(
            [(_storable(name), None if value is None else value.hex()) for name, value in record.headers]
        )
        place = (record.topic, record.partition, record.offset)
        order = identity(record.headers)
        await db.execute(SQL["insert_dead_letter"], *place, headers, record.value, *order, _storable(reason))


def _storable(text: str) -> str:
    return NOT_STORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


async def resolve_dead_letters(db: Connection, events: Sequence[Event]) -> None:
    """Note that these events were received, although their records could not be read."""
    await db.executemany(SQL["resolve_dead_letter_of"], [(event.order_id, event.sequence) for event in events])


async def keep_watermark(
    db: Connection,
    topic: str,
    up_to: datetime,
    oldest: datetime | None,
    ends: Mapping[str, int],
    announced: Mapping[str, Any] | None,
) -> None:
    """Store how far the relay and the topic are, and which events the last true watermark calls missing."""
    missing = (announced["missing"], announced["missing_count"]) if announced else (None, None)
    await db.execute(SQL["keep_watermark"], topic, up_to, oldest, ends, *missing)


async def wait_for_events(db: Connection) -> None:
    """Wait for all transactions that store events, and let none begin before the caller's transaction has ended."""
    await db.execute("LOCK TABLE platform.streams IN SHARE ROW EXCLUSIVE MODE")


async def check_queries(db: Connection) -> None:
    """Have the server plan every query, without executing it. Raises Unavailable if a right is missing.

    A missing table or column raises the driver's error, which the pool translates.
    """
    grants = await db.fetch(SQL["missing_rights"])
    if grants:
        raise Unavailable(" ".join(["rights are missing:", *(row[0] for row in grants)]))
    await db.execute("".join(f"PREPARE checked AS {query.rstrip()}\nDEALLOCATE checked;\n" for query in SQL.values()))


async def prune(db: Connection, keep_seconds: float, limit: int) -> int:
    """Delete what is older: compared minutes, forged events, and at most `limit` events. Return how many events."""
    await db.execute(SQL["prune_buckets"], keep_seconds)
    await db.execute(SQL["prune_forged"], keep_seconds)
    return int((await db.execute(SQL["prune_inbox"], keep_seconds, limit)).split()[-1])


received = _query("received", "fetch")
set_states = _query("set_state", "executemany")
move_streams = _query("move_stream", "executemany")
put_orders = _query("put_order", "executemany")
delete_orders = _query("delete_orders", "execute")
doubt_streams = _query("doubt_streams", "execute")
doubt_odd_times = _query("doubt_odd_times", "execute")
doubt_before = _query("doubt_before", "execute")
doubt_forged = _query("doubt_forged", "execute")
insert_restore = _query("insert_restore", "execute")
forget_compared = _query("forget_compared", "execute")
settle_stream = _query("settle_stream", "execute")
events_of_order = _query("events_of_order", "fetch")
letters_of_order = _query("letters_of_order", "fetch")
events_elsewhere = _query("events_elsewhere", "fetch")
withdraw_events = _query("withdraw_events", "fetch")
events_after = _query("events_after", "fetch")
acquit = _query("acquit", "execute")
forged_events = _query("forged_events", "fetch")
last_sequence = _query("last_sequence", "fetchval")
set_removed_before = _query("set_removed_before", "execute")
set_topic = _query("set_topic", "execute")
confirm_events = _query("confirm_events", "execute")
add_sales = _query("add_sales", "executemany")
dead_letters = _query("dead_letters", "fetch")
resolve_dead_letter = _query("resolve_dead_letter", "execute")
orders_to_ask_for = _query("orders_to_ask_for", "fetch")
watermark = _query("watermark", "fetchrow")
counts = _query("counts", "fetchrow")
first_event_at = _query("first_event_at", "fetchval")
set_checked = _query("set_checked", "execute")
events_of_bucket = _query("events_of_bucket", "fetch")
put_bucket = _query("put_bucket", "execute")
unproven_buckets = _query("unproven_buckets", "fetch")
buckets_to_compare = _query("buckets_to_compare", "fetch")
repaired_buckets = _query("repaired_buckets", "fetch")
take_leadership = _query("take_leadership", "fetchval")
leadership = _query("leadership", "fetchrow")
leave_leadership = _query("leave_leadership", "execute")


_BEFORE_THE_LOCK = {
    "SELECT to_regnamespace('platform') IS NULL": "CREATE SCHEMA platform",
    "SELECT to_regclass('platform.migrations') IS NULL": "CREATE TABLE platform.migrations (name text PRIMARY KEY)",
}


async def migrate(settings: ConsumerSettings) -> list[str]:
    """Apply the missing migrations and the rights, all in one transaction. Return the names. Raises Unavailable.

    Processes that migrate at the same time wait for one another. Only the owner of a table can lock it in this mode.
    Every role could take an advisory lock.
    """
    async with Pool(settings) as pool, pool.transaction() as db:
        for missing, create in _BEFORE_THE_LOCK.items():
            if await db.fetchval(missing):
                with suppress(asyncpg.UniqueViolationError):  # another process was faster
                    async with db.transaction():
                        await db.execute(create)
        await db.execute("SET LOCAL lock_timeout = 0")
        await db.execute("LOCK TABLE platform.migrations IN SHARE ROW EXCLUSIVE MODE", timeout=MIGRATE_SECONDS)
        await db.execute("SET LOCAL lock_timeout TO DEFAULT")
        applied = {row["name"] for row in await db.fetch("SELECT name FROM platform.migrations")}
        files = sorted(Path(__file__).with_name("migrations").glob("*.sql"))
        pending = [file for file in files if file.stem not in applied]
        for file in pending:
            await db.execute(file.read_text(), timeout=MIGRATE_SECONDS)
            await db.execute("INSERT INTO platform.migrations VALUES ($1)", file.stem)
        await db.execute(Path(__file__).with_name("rights.sql").read_text())
        return [file.stem for file in pending]
