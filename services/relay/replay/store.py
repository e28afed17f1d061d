"""Queries of replays: one function and one statement each."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.relay.domain.events import OutboxEvent
from services.relay.store import SQL
from shared.operators import Who
from shared.postgres.connections import Connection, Row


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a replay publishes: those that match every given field; the times are `from_at` <= t < `to_at`."""

    order_id: UUID | None = None
    type: str | None = None
    from_at: datetime | None = None
    to_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """A running replay and its progress."""

    replay_id: UUID
    topic: str
    selection: Selection
    up_to: int
    position: int


@dataclass(frozen=True, slots=True)
class Window:
    """The next matching events, and the position after them; None if there are no further events."""

    wanted: list[OutboxEvent]
    position: int | None


async def create_replay(connection: Connection, replay_id: UUID, topic: str, selection: Selection, who: Who) -> Row:
    """Record a replay, which a relay will begin, and return it."""
    row = await connection.fetchrow(
        SQL["create_replay"],
        replay_id,
        topic,
        selection.order_id,
        selection.type,
        selection.from_at,
        selection.to_at,
        who.actor,
        who.reason,
    )
    assert row is not None
    return row


async def get_replay(connection: Connection, replay_id: UUID) -> Row | None:
    """Return a replay."""
    return await connection.fetchrow(SQL["get_replay"], replay_id)


async def list_replays(connection: Connection, limit: int) -> list[Row]:
    """Return replays, newest first."""
    return list(await connection.fetch(SQL["list_replays"], limit))


async def next_replay(connection: Connection) -> Replay | None:
    """Return the oldest running replay."""
    row = await connection.fetchrow(SQL["next_replay"])
    if row is None:
        return None
    selection = Selection(row["order_id"], row["type"], row["from_at"], row["to_at"])
    return Replay(row["replay_id"], row["topic"], selection, row["up_to"], row["position"])


async def replay_window(connection: Connection, replay: Replay, *, events_max: int, bytes_max: int) -> Window:
    """Return the next window of the replay's events, up to the limits."""
    selection = replay.selection
    bounds = (replay.position, replay.up_to, selection.type, selection.from_at, selection.to_at, events_max, bytes_max)
    rows = await connection.fetch(SQL["replay_window"], *bounds, selection.order_id)
    wanted = [OutboxEvent(*row[:-1]) for row in rows if row["wanted"]]
    return Window(wanted, rows[-1]["outbox_id"] if rows else None)


async def replay_waits(connection: Connection, replay: Replay) -> bool:
    """Return whether there are unpublished events that the replay may have to publish."""
    bounds = (replay.position, replay.up_to, replay.selection.order_id)
    return bool(await connection.fetchval(SQL["replay_waits"], *bounds))


async def lost_to_replay(connection: Connection, replay_id: UUID) -> datetime | None:
    """Return up to which time events were removed before the replay reached them; None if there are none."""
    timestamp: datetime | None = await connection.fetchval(SQL["lost_to_replay"], replay_id)
    return timestamp


async def advance_replay(connection: Connection, replay: Replay, position: int, events: int, *, done: bool) -> bool:
    """Record that `events` more were published, up to `position`; return False if it was cancelled or overtaken."""
    arguments = (replay.replay_id, replay.position, position, events, done)
    return bool(await connection.fetchval(SQL["advance_replay"], *arguments))


async def fail_replay(connection: Connection, replay: Replay, failure: str) -> None:
    """Stop a replay and record the reason."""
    await connection.execute(SQL["fail_replay"], replay.replay_id, replay.position, failure)


async def cancel_replay(connection: Connection, replay_id: UUID, who: Who) -> Row | None:
    """Stop a replay; None if it does not run."""
    return await connection.fetchrow(SQL["cancel_replay"], replay_id, who.actor, who.reason)


async def resume_replay(connection: Connection, replay_id: UUID, who: Who) -> Row | None:
    """Resume a stopped replay from its position; None if it is not stopped."""
    return await connection.fetchrow(SQL["resume_replay"], replay_id, who.actor, who.reason)
