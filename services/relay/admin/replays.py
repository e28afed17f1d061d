"""What operators do with replays: ask for one, look how far it is, stop it, let it go on. The relays do the rest.

A replay publishes what was published before, once more and into a topic of its own. Never into the relay's own topics:
consumers of those are promised each event once.
"""

from typing import Any
from uuid import UUID

import structlog

from services.relay import history_store, replay_store
from services.relay.admin.refusals import (
    EventsRemoved,
    ReplayNotFound,
    ReplayNotRunning,
    ReplayNotStopped,
    ReplayOfNothing,
    ReplayTopicNotAllowed,
)
from services.relay.replay_store import Selection
from services.relay.settings import RelaySettings
from shared.ids import uuid7
from shared.operators import Who
from shared.postgres import Pool

log = structlog.get_logger()

LIST_MAX = 100
TOPIC = r"^[A-Za-z0-9._-]{1,200}$"


async def start(settings: RelaySettings, pool: Pool, topic: str, selection: Selection, who: Who) -> dict[str, Any]:
    """Have events published again into `topic`, and return the replay.

    Raises ReplayTopicNotAllowed, ReplayOfNothing or EventsRemoved.
    """
    _check_topic(settings, topic)
    _check_selection(selection)
    async with pool.connection() as db:
        removed_up_to = await history_store.removed_up_to(db)
        if selection.from_at is not None and removed_up_to is not None and selection.from_at <= removed_up_to:
            raise EventsRemoved.up_to(removed_up_to)
        row = await replay_store.create_replay(db, uuid7(), topic, selection, who)
    log.info("replay asked for", replay_id=str(row["replay_id"]), topic=topic, actor=who.actor, reason=who.reason)
    return dict(row)


def _check_topic(settings: RelaySettings, topic: str) -> None:
    own = (settings.topic, settings.position_topic, settings.watermark_topic)
    if topic in own or topic.startswith("__") or topic in (".", ".."):
        raise ReplayTopicNotAllowed(f"{topic} is not for replays; name a topic of their own.")


def _check_selection(selection: Selection) -> None:
    start, end = selection.from_at, selection.to_at
    if selection == Selection():
        raise ReplayOfNothing("Say which events: an order, a type, a time, or several of them.")
    if start is not None and end is not None and end <= start:
        raise ReplayOfNothing("The end has to be later than the beginning.")


async def get(pool: Pool, replay_id: UUID) -> dict[str, Any]:
    """Return a replay, and how far it is. Raises ReplayNotFound."""
    async with pool.connection() as db:
        row = await replay_store.get_replay(db, replay_id)
    if row is None:
        raise ReplayNotFound
    return dict(row)


async def list_all(pool: Pool) -> list[dict[str, Any]]:
    """Return the newest replays."""
    async with pool.connection() as db:
        return [dict(row) for row in await replay_store.list_replays(db, LIST_MAX)]


async def cancel(pool: Pool, replay_id: UUID, who: Who) -> dict[str, Any]:
    """Stop a replay after its step under way. Raises ReplayNotFound or ReplayNotRunning."""
    async with pool.connection() as db:
        row = await replay_store.cancel_replay(db, replay_id, who)
    if row is None:
        raise ReplayNotRunning(f"The replay is {(await get(pool, replay_id))['state']}.")
    return dict(row)


async def resume(pool: Pool, replay_id: UUID, who: Who) -> dict[str, Any]:
    """Let a stopped or failed replay go on from where it was.

    Raises ReplayNotFound, ReplayNotStopped or EventsRemoved.
    """
    async with pool.connection() as db:
        lost = await replay_store.lost_to_replay(db, replay_id)
        if lost is not None:
            raise EventsRemoved.up_to(lost)
        row = await replay_store.resume_replay(db, replay_id, who)
    if row is None:
        raise ReplayNotStopped(f"The replay is {(await get(pool, replay_id))['state']}.")
    return dict(row)
