"""One function per query or, where several always go together, per write; each takes a connection, whose transaction is
the caller's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from deploy.consumer.digests import bucket_of
from deploy.consumer.events import Event, Order
from deploy.consumer.streams import Decision, Sales, Stream
from shared.postgres import Connection, Row, load_queries

SQL = load_queries(Path(__file__).with_name("queries.sql"))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be read, as it was."""

    partition: int
    offset: int
    headers: Sequence[tuple[str, bytes | None]]
    value: bytes | None
    order_id: UUID | None
    sequence: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """What of an order is in the inbox: an event that waits, or only its id and sequence."""

    event_id: UUID
    order_id: UUID
    sequence: int
    waiting: Event | None


@dataclass(frozen=True, slots=True)
class Watermark:
    """The newest watermark that came, and up to which minute our own records were compared."""

    up_to: datetime
    partitions: Mapping[str, int]
    missing: Sequence[Mapping[str, Any]]
    missing_count: int
    received_at: datetime
    checked_up_to: datetime | None


@dataclass(frozen=True, slots=True)
class Gap:
    """The sequences of an order that others wait for."""

    order_id: UUID
    first: int
    last: int | None


async def bound_pauses(db: Connection, seconds: float) -> None:
    """Have the server end this transaction if nothing is heard of it for so long."""
    await db.execute(SQL["bound_pauses"], seconds)


async def begin_partitions(db: Connection, topic: str, positions: Mapping[int, int]) -> None:
    """Note where partitions begin that were never read."""
    await db.execute(SQL["begin_partitions"], topic, list(positions), list(positions.values()))


async def positions(db: Connection, topic: str) -> dict[int, int]:
    """Return the next offset to read, by partition."""
    return {row["partition"]: row["position"] for row in await db.fetch(SQL["positions"], topic)}


async def move_positions(db: Connection, topic: str, moves: Mapping[int, tuple[int, int]]) -> bool:
    """Move partitions from an expected position to another; return whether all were where they were expected."""
    ordered = sorted(moves)
    moved = await db.fetch(
        SQL["move_positions"], topic, ordered, [moves[one][0] for one in ordered], [moves[one][1] for one in ordered]
    )
    return len(moved) == len(moves)


async def lock_streams(db: Connection, order_ids: Sequence[UUID]) -> dict[UUID, Stream]:
    """Lock the orders' streams, in order, and return them; the order as it is told comes with them."""
    await db.execute(SQL["begin_streams"], order_ids)
    sequences = {row["order_id"]: row["sequence"] for row in await db.fetch(SQL["lock_streams"], order_ids)}
    orders = {
        row["order_id"]: Order(row["status"], row["user_id"], row["total_amount"], row["currency"])
        for row in await db.fetch(SQL["orders"], order_ids)
    }
    return {order_id: Stream(sequence, orders.get(order_id)) for order_id, sequence in sequences.items()}


async def received(db: Connection, order_ids: Sequence[UUID]) -> list[Row]:
    """Return what was received of the orders; the payload only of what waits."""
    return list(await db.fetch(SQL["received"], order_ids))


async def insert_events(db: Connection, events: Sequence[Event], states: Mapping[UUID, str], source: str) -> None:
    """Keep events, each with its state."""
    await db.execute(
        SQL["insert_events"],
        [event.event_id for event in events],
        [event.order_id for event in events],
        [event.sequence for event in events],
        [event.type for event in events],
        [event.occurred_at for event in events],
        [event.shard for event in events],
        [event.payload for event in events],
        [event.sha256 for event in events],
        [states[event.event_id] for event in events],
        source,
    )
    await db.execute(
        SQL["unsettle_buckets"],
        [bucket_of(event.occurred_at) for event in events],
        [event.shard for event in events],
    )


async def set_states(db: Connection, states: Mapping[UUID, str]) -> None:
    """Change the states of events that were there already."""
    await db.execute(SQL["set_states"], list(states), list(states.values()))


async def put_decision(db: Connection, decision: Decision, before: Mapping[UUID, Stream]) -> None:
    """Write what a decision changes of streams, orders and sales."""
    streams = decision.streams
    await db.execute(
        SQL["move_streams"],
        list(streams),
        [stream.sequence for stream in streams.values()],
        [decision.waiting[order_id] for order_id in streams],
    )
    changed = {
        order_id: stream.order
        for order_id, stream in streams.items()
        if stream.order is not None and stream.order != before[order_id].order
    }
    if changed:
        await db.execute(
            SQL["put_orders"],
            list(changed),
            [order.status for order in changed.values()],
            [order.user_id for order in changed.values()],
            [order.total_amount for order in changed.values()],
            [order.currency for order in changed.values()],
        )
    sales = {currency: sold for currency, sold in decision.sales.items() if sold != Sales()}
    if sales:
        await db.execute(
            SQL["add_sales"],
            list(sales),
            [sold.paid_orders for sold in sales.values()],
            [sold.paid_amount for sold in sales.values()],
            [sold.refunded_orders for sold in sales.values()],
            [sold.refunded_amount for sold in sales.values()],
        )


async def insert_dead_letters(db: Connection, topic: str, letters: Sequence[DeadLetter]) -> None:
    """Keep records that could not be read."""
    await db.execute(
        SQL["insert_dead_letters"],
        topic,
        [letter.partition for letter in letters],
        [letter.offset for letter in letters],
        [_headers_text(letter.headers) for letter in letters],
        [letter.value for letter in letters],
        [letter.order_id for letter in letters],
        [letter.sequence for letter in letters],
        [letter.reason for letter in letters],
    )


def _headers_text(headers: Sequence[tuple[str, bytes | None]]) -> str:
    return json.dumps([(name, None if value is None else value.hex()) for name, value in headers])


async def resolve_dead_letters(db: Connection, events: Sequence[Event]) -> None:
    """Note that events were received whose records could not be read."""
    await db.execute(
        SQL["resolve_dead_letters"], [event.order_id for event in events], [event.sequence for event in events]
    )


async def resolve_dead_letter(db: Connection, topic: str, partition: int, offset: int) -> None:
    """Note that a record could be read after all."""
    await db.execute(SQL["resolve_dead_letter"], topic, partition, offset)


async def dead_letters(db: Connection, limit: int) -> list[Row]:
    """Return the oldest unresolved dead letters."""
    return list(await db.fetch(SQL["dead_letters"], limit))


async def orders_to_ask_for(db: Connection, again_seconds: float, limit: int) -> list[Gap]:
    """Return orders whose events wait for missing ones, and note that they are asked for."""
    return [Gap(**row) for row in await db.fetch(SQL["orders_to_ask_for"], again_seconds, limit)]


async def keep_watermark(db: Connection, topic: str, body: Mapping[str, Any], up_to: datetime) -> None:
    """Keep a watermark, unless it is no newer than the one that is kept."""
    await db.execute(SQL["keep_watermark"], topic, up_to, body["partitions"], body["missing"], body["missing_count"])


async def watermark(db: Connection, topic: str) -> Watermark | None:
    """Return the newest watermark that came."""
    row = await db.fetchrow(SQL["watermark"], topic)
    return None if row is None else Watermark(**row)


async def first_moment(db: Connection) -> datetime | None:
    """Return the moment of the oldest event that is kept."""
    moment: datetime | None = await db.fetchval(SQL["first_moment"])
    return moment


async def set_checked(db: Connection, topic: str, moment: datetime) -> None:
    """Note that all minutes before a moment have been compared."""
    await db.execute(SQL["set_checked"], topic, moment)


async def events_of_bucket(db: Connection, start: datetime, end: datetime) -> list[Row]:
    """Return what was received of one minute."""
    return list(await db.fetch(SQL["events_of_bucket"], start, end))


async def put_bucket(
    db: Connection, bucket: datetime, shard: int, state: str, findings: Sequence[Mapping[str, Any]]
) -> None:
    """Keep what was found when a minute of a shard was compared."""
    await db.execute(SQL["put_bucket"], bucket, shard, state, findings)


async def unproven_buckets(db: Connection, limit: int) -> list[Row]:
    """Return the oldest minutes that were compared and not found equal."""
    return list(await db.fetch(SQL["unproven_buckets"], limit))


async def buckets_to_compare(db: Connection, again_seconds: float, limit: int) -> list[Row]:
    """Return the minutes that have got an event since they were compared, or were not found equal a while ago."""
    return list(await db.fetch(SQL["buckets_to_compare"], again_seconds, limit))


async def repaired_buckets(db: Connection, limit: int) -> list[Row]:
    """Return the newest minutes that were found equal after something had been missing."""
    return list(await db.fetch(SQL["repaired_buckets"], limit))


async def hold_duty(db: Connection, duty: str, holder: str, seconds: float) -> bool:
    """Take or keep a duty; False if another process has it."""
    return await db.fetchval(SQL["hold_duty"], duty, holder, seconds) is not None


async def leave_duty(db: Connection, duty: str, holder: str) -> None:
    """Leave a duty to others."""
    await db.execute(SQL["leave_duty"], duty, holder)


async def counts(db: Connection) -> Row:
    """Return how many dead letters, waiting orders and differing minutes there are, and the time."""
    row = await db.fetchrow(SQL["counts"])
    assert row is not None
    return row


async def prune(db: Connection, keep_seconds: float, limit: int) -> int:
    """Remove what is older than that, `limit` events at the most; return how many events went."""
    await db.execute(SQL["prune_buckets"], keep_seconds)
    return int((await db.execute(SQL["prune_inbox"], keep_seconds, limit)).split()[-1])
