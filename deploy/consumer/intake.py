"""Takes events in: duplicates out, each order's in sequence, effects and positions in the same transaction."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from deploy.consumer import metrics, store
from deploy.consumer.events import Event, Undecodable, decode, event_of
from deploy.consumer.store import DeadLetter
from deploy.consumer.streams import LATE, WAITING, decide
from shared.postgres import Connection, Pool, Row

log = structlog.get_logger()

PAUSE_SECONDS = 3.0  # within a transaction; they take milliseconds


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """Lend a connection in a transaction that the server ends if this process is paused in it: it holds the rows of
    partitions and orders, which others would wait for. Raises Unavailable."""
    async with pool.transaction() as db:
        await store.bound_pauses(db, PAUSE_SECONDS)
        yield db


@dataclass(slots=True)
class Taken:
    """What became of events: how many were new, and those that contradict one that is there."""

    new: int = 0
    duplicates: int = 0
    contradicting: list[Event] = field(default_factory=list)


async def take(
    db: Connection, events: Sequence[Event], source: str, given_up: Mapping[UUID, Collection[int]] | None = None
) -> Taken:
    """Take events in, in the caller's transaction.

    `given_up`: by order, sequences that will never come; what waits for them goes on.
    """
    given_up = given_up or {}
    order_ids = sorted({event.order_id for event in events} | given_up.keys())
    if not order_ids:
        return Taken()
    streams = await store.lock_streams(db, order_ids)
    rows = await store.received(db, order_ids)  # a statement of its own, after the locks
    taken, new = _sort_out(events, rows)
    waiting = [_waiting(row) for row in rows if row["state"] == WAITING]
    decision = decide(streams, [*waiting, *new], given_up)
    if new:
        await store.insert_events(db, new, decision.states, source)
        await store.resolve_dead_letters(db, new)
        if any(decision.states[event.event_id] == LATE for event in new):
            log.info("late events kept", orders=sorted({str(event.order_id) for event in new}))
    moved = {
        event.event_id: decision.states[event.event_id]
        for event in waiting
        if decision.states[event.event_id] != WAITING
    }
    if moved:
        await store.set_states(db, moved)
    await store.put_decision(db, decision, streams)
    metrics.RECEIVED.labels(source).inc(taken.new)
    metrics.DUPLICATES.inc(taken.duplicates)
    return taken


def _sort_out(events: Sequence[Event], rows: Sequence[Row]) -> tuple[Taken, list[Event]]:
    """Return the events that are new, each once, and count the others."""
    ids = {row["event_id"] for row in rows}
    places = {(row["order_id"], row["sequence"]) for row in rows}
    taken, new = Taken(), []
    for event in events:
        place = (event.order_id, event.sequence)
        if event.event_id in ids:
            taken.duplicates += 1
        elif place in places:
            taken.contradicting.append(event)
        else:
            ids.add(event.event_id)
            places.add(place)
            new.append(event)
    taken.new = len(new)
    return taken, new


def _waiting(row: Row) -> Event:
    return event_of(
        event_id=str(row["event_id"]),
        order_id=str(row["order_id"]),
        sequence=str(row["sequence"]),
        type_=row["type"],
        occurred_at=row["occurred_at"].isoformat(),
        payload=row["payload"],
    )


async def retry_dead_letters(pool: Pool, limit: int) -> tuple[int, int]:
    """Try to read unresolved dead letters again, say with a newer build; return how many could be and how many not."""
    async with pool.connection() as db:
        letters = await store.dead_letters(db, limit)
    resolved = 0
    for letter in letters:
        place = (letter["topic"], letter["partition"], letter["record_offset"])
        headers = [(name, None if value is None else bytes.fromhex(value)) for name, value in letter["headers"]]
        try:
            event = decode(headers, letter["value"])
        except Undecodable as error:
            log.warning("dead letter still can't be read", place=place, reason=str(error))
            continue
        async with transaction(pool) as db:
            taken = await take(db, [event], "dead letter")
            if taken.contradicting:
                log.warning("dead letter still contradicts another event", place=place)
                continue
            await store.resolve_dead_letter(db, *place)
        resolved += 1
    return resolved, len(letters) - resolved


def contradiction(event: Event, partition: int, offset: int, headers: Sequence[tuple[str, bytes | None]]) -> DeadLetter:
    """Return the dead letter of an event whose place in its order another one has."""
    reason = f"another event has sequence {event.sequence} of this order"
    return DeadLetter(partition, offset, headers, event.payload, event.order_id, event.sequence, reason)
