"""Takes events in: drops duplicates, applies each order's events in sequence, and keeps the events that must wait.

All of it happens in the caller's transaction, together with the position on the topic.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from operator import add
from uuid import UUID

import asyncpg
import structlog
from prometheus_client import Counter

from . import store
from .events import Event, Order, Undecodable, decode, order_of
from .runtime import REGISTRY, Connection, Pool

log = structlog.get_logger()

RELAY = "relay"  # the source of events that were asked of the relay's API, and not read from the topic

RECEIVED = Counter("consumer_events_total", "Events received for the first time", ["source"], registry=REGISTRY)
DUPLICATES = Counter("consumer_duplicates_total", "Events that had been received before", registry=REGISTRY)

APPLIED = "APPLIED"  # the event changed this platform's order
IGNORED = "IGNORED"  # its type is unknown: it is kept, and the order's later events are applied
WAITING = "WAITING"  # an event before it is missing
LATE = "LATE"  # an event after it was applied, because this one was given up
COUNTED = (APPLIED, IGNORED)  # these have moved the stream

# How far the clocks of two databases may differ. A time beyond it may be one that no minute's comparison will reach.
AHEAD_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Stream:
    """The last sequence of an order that was applied, and the order as that event describes it."""

    sequence: int = 0
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Sales:
    """Number and amount of paid and refunded orders, or a change of them."""

    paid_orders: int = 0
    paid_amount: int = 0
    refunded_orders: int = 0
    refunded_amount: int = 0

    def __add__(self, other: "Sales") -> "Sales":
        return Sales(*map(add, astuple(self), astuple(other)))


@dataclass(slots=True)
class Decision:
    """What to write: each event's state, the streams, whether events of a stream wait, and the change of the sales.

    `before`: by applied event, the stream before it, for the case that the event turns out to be forged.
    """

    states: dict[UUID, str] = field(default_factory=dict)
    before: dict[UUID, Stream] = field(default_factory=dict)
    streams: dict[UUID, Stream] = field(default_factory=dict)
    waiting: dict[UUID, bool] = field(default_factory=dict)
    sales: dict[str, Sales] = field(default_factory=lambda: defaultdict(Sales))


@dataclass(slots=True)
class Taken:
    """What became of events: how many are new, how many were known, and which contradict an event that is stored.

    `doubted`: the orders of both sides of each contradiction. Which side is the relay's is not known yet.
    """

    new: int = 0
    duplicates: int = 0
    contradicting: list[Event] = field(default_factory=list)
    doubted: set[UUID] = field(default_factory=set)


async def take(
    db: Connection, events: Sequence[Event], source: str, given_up: Mapping[UUID, Collection[int]] | None = None
) -> Taken:
    """Take events in, in the caller's transaction.

    `given_up`: by order, sequences that will never come. Events that wait for these sequences are applied.
    """
    given_up = given_up or {}
    order_ids = sorted({event.order_id for event in events} | given_up.keys())
    if not order_ids:
        return Taken()
    positions, orders = await store.lock_streams(db, order_ids)
    streams = {order_id: Stream(sequence, orders.get(order_id)) for order_id, sequence in positions.items()}
    # In a statement of its own, after the locks.
    rows = await store.received(db, order_ids, [event.event_id for event in events])
    taken, new = sort_out(events, rows)
    waiting = [_stored(row) for row in rows if row["state"] == WAITING and row["order_id"] in positions]
    decision = decide(streams, [*waiting, *new], given_up)
    states = decision.states
    await store.insert_events(db, [(event, *_outcome(decision, event.event_id)) for event in new], source)
    late = sorted({str(event.order_id) for event in new if states[event.event_id] == LATE})
    if late:
        log.info("late_events.kept", orders=late)
    await _set_states(db, decision, [event for event in waiting if states[event.event_id] != WAITING])
    await _move_streams(db, decision)
    await apply(db, decision, streams)
    if source == RELAY:
        await store.acquit(db, [event.event_id for event in new])
    else:
        await store.doubt_odd_times(db, [event.event_id for event in new], AHEAD_SECONDS)
    await store.doubt_streams(db, sorted(taken.doubted))
    RECEIVED.labels(source).inc(taken.new)
    DUPLICATES.inc(taken.duplicates)
    return taken


async def withdraw(db: Connection, reasons: Mapping[UUID, str], order_ids: Iterable[UUID]) -> list[asyncpg.Record]:
    """Undo events that are not the relay's, in the caller's transaction, and return those that were stored.

    `reasons`: by event id, why the event is forged. `order_ids`: at least the orders of these events. Each order
    becomes what it was before the first of them; then its later events are applied again.
    """
    positions, orders = await store.lock_streams(db, sorted(order_ids))
    withdrawn = await store.withdraw_events(db, list(reasons), list(reasons.values())) if reasons else []
    if not withdrawn:
        return []
    affected = {row["order_id"] for row in withdrawn}
    streams = {order_id: Stream(positions[order_id], orders.get(order_id)) for order_id in affected}
    begins = dict(streams)
    for row in reversed(withdrawn):
        if row["state"] in COUNTED:
            begins[row["order_id"]] = _before(row)
    bases = [stream.sequence for stream in begins.values()]
    later = [_stored(row) for row in await store.events_after(db, list(begins), bases)]
    decision = decide(streams, later, dict.fromkeys(affected, ()), begins)
    await _set_states(db, decision, later)
    await _move_streams(db, decision)
    await apply(db, decision, streams)
    return withdrawn


async def _set_states(db: Connection, decision: Decision, events: Iterable[Event]) -> None:
    await store.set_states(db, [(event.event_id, *_outcome(decision, event.event_id)) for event in events])


async def _move_streams(db: Connection, decision: Decision) -> None:
    streams = decision.streams.items()
    await store.move_streams(db, [(one, stream.sequence, decision.waiting[one]) for one, stream in streams])


def _outcome(decision: Decision, event_id: UUID) -> tuple[str, str | None]:
    """Return an event's state, and the stream before it as JSON if the event was applied."""
    before = decision.before.get(event_id)
    if before is None:
        return decision.states[event_id], None
    return decision.states[event_id], json.dumps([before.sequence, before.order and astuple(before.order)])


def _before(row: asyncpg.Record) -> Stream:
    """Return the stream before an applied event; an empty one for an event that an older build applied."""
    sequence, order = row["before"] or (0, None)
    return Stream(sequence, order and Order(*order))


async def apply(db: Connection, decision: Decision, before: Mapping[UUID, Stream]) -> None:
    """Write the effects, in the caller's transaction. Replace these with your platform's own.

    If a forged event was withdrawn, an order may be what it was before, or None if no event of it is left.
    """
    orders = {order_id: stream.order for order_id, stream in decision.streams.items()}
    changed = {one: order for one, order in orders.items() if order is not None and order != before[one].order}
    await store.put_orders(db, [(one, *astuple(order)) for one, order in changed.items()])
    gone = [one for one, order in orders.items() if order is None and before[one].order is not None]
    if gone:
        await store.delete_orders(db, gone)
    # By currency, so that two processes lock the rows in the same order.
    sales = sorted((currency, *astuple(sold)) for currency, sold in decision.sales.items() if sold != Sales())
    await store.add_sales(db, sales)


def decide(
    streams: Mapping[UUID, Stream],
    events: Iterable[Event],
    given_up: Mapping[UUID, Collection[int]],
    begins: Mapping[UUID, Stream] | None = None,
) -> Decision:
    """Decide which events are applied, without I/O.

    `events`: the new ones and those that wait, each once. `given_up`: by order, sequences that will never come.
    `begins`: the streams to which the events are applied, if not to `streams` as they are now.
    """
    decision = Decision()
    by_order: dict[UUID, list[Event]] = {order_id: [] for order_id in given_up}
    for event in events:
        by_order.setdefault(event.order_id, []).append(event)
    for order_id, own in by_order.items():
        before = streams.get(order_id, Stream())
        begin = (begins or streams).get(order_id, Stream())
        after = _run(begin, sorted(own, key=lambda event: event.sequence), given_up.get(order_id, ()), decision)
        decision.streams[order_id] = after
        decision.waiting[order_id] = any(decision.states[event.event_id] == WAITING for event in own)
        for order, sign in ((after.order, 1), (before.order, -1)):
            if order is not None:
                decision.sales[order.currency] += _counted(order, sign)
    return decision


def _run(stream: Stream, events: Sequence[Event], given_up: Collection[int], decision: Decision) -> Stream:
    """Note each event's state, and return the stream after the events that follow without a gap."""
    for event in events:
        before = stream
        while stream.sequence + 1 in given_up and stream.sequence + 1 < event.sequence:
            stream = replace(stream, sequence=stream.sequence + 1)
        if event.sequence <= stream.sequence:
            decision.states[event.event_id] = LATE
        elif event.sequence > stream.sequence + 1:
            decision.states[event.event_id] = WAITING
        else:
            decision.states[event.event_id] = APPLIED if event.order else IGNORED
            decision.before[event.event_id] = before
            stream = Stream(event.sequence, event.order or stream.order)
    return stream


def _counted(order: Order, sign: int) -> Sales:
    """Return an order's part of the sales. It depends on the status only, so it is right if earlier events are lost."""
    paid = order.status in ("PAID", "REFUNDED")
    refunded = order.status == "REFUNDED"
    return Sales(sign * paid, sign * paid * order.total_amount, sign * refunded, sign * refunded * order.total_amount)


def sort_out(events: Sequence[Event], rows: Sequence[asyncpg.Record]) -> tuple[Taken, list[Event]]:
    """Return the new events, each once, and what became of the others."""
    names = ("order_id", "sequence", "type", "occurred_at", "sha256")
    ids = {row["event_id"]: tuple(row[name] for name in names) for row in rows}
    places = {(row["order_id"], row["sequence"]) for row in rows}
    taken, new = Taken(), []
    for event in events:
        place, content = (event.order_id, event.sequence), tuple(getattr(event, name) for name in names)
        known = ids.get(event.event_id)
        if known == content:
            taken.duplicates += 1
        elif known is not None or place in places:
            taken.contradicting.append(event)
            taken.doubted |= {event.order_id} if known is None else {event.order_id, known[0]}
        else:
            ids[event.event_id] = content
            places.add(place)
            new.append(event)
    taken.new = len(new)
    return taken, new


def _stored(row: asyncpg.Record) -> Event:
    event_id, order_id, sequence, type_, occurred_at, payload, *_ = row
    order = order_of(type_, order_id, payload)
    return Event(event_id, order_id, sequence, type_, occurred_at, payload, order, topic=row["topic"])


async def retry_dead_letters(pool: Pool, limit: int) -> tuple[int, int]:
    """Try to read dead letters again, for example with a newer build. Return how many were read and how many not."""
    async with pool.connection() as db:
        letters = await store.dead_letters(db, limit)
    resolved = 0
    for letter in letters:
        place = (letter["topic"], letter["partition"], letter["record_offset"])
        headers = [(name, None if value is None else bytes.fromhex(value)) for name, value in letter["headers"]]
        try:
            event = decode(headers, letter["value"], letter["topic"])
        except Undecodable as error:
            log.warning("dead_letter.still_unreadable", place=place, reason=str(error))
            continue
        async with pool.transaction() as db:
            taken = await take(db, [event], "dead letter")
            if taken.contradicting:
                log.warning("dead_letter.still_contradicting", place=place)
                continue
            await store.resolve_dead_letter(db, *place)
        resolved += 1
    return resolved, len(letters) - resolved
