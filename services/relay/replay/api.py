"""Replays, for operators: start one, read its progress, stop it, resume it. The relays run it.

A replay publishes events again, into a separate topic. It never writes to the relay's own topics, because their
consumers are promised each event once.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import structlog
from aiohttp import web
from pydantic import AfterValidator, Field

from services.relay import store as queries
from services.relay.domain.refusals import (
    EventsRemoved,
    ReplayNotFound,
    ReplayNotRunning,
    ReplayNotStopped,
    ReplayOfNothing,
    ReplayTopicNotAllowed,
)
from services.relay.replay import store
from services.relay.replay.store import Selection
from services.relay.settings import RelaySettings
from shared.contracts.events import EVENTS
from shared.contracts.scopes import Scope
from shared.contracts.types import Wire
from shared.http.callers import caller
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import path_uuid, read_body
from shared.ids import uuid7
from shared.notation import Timestamp, Uuid
from shared.operators import By, Who
from shared.postgres.connections import Pool

log = structlog.get_logger()

LIST_MAX = 100
TOPIC = r"^[A-Za-z0-9._-]{1,200}$"
Topic = Annotated[str, Field(pattern=TOPIC)]


def _published(text: str) -> str:
    if text not in EVENTS:
        raise ValueError(f"must be one of {', '.join(EVENTS)}")
    return text


EventType = Annotated[str, AfterValidator(_published), Field(json_schema_extra={"enum": list(EVENTS)})]


class NewReplay(By):
    """Into which topic, and which events: those that fit all that is given; `from` <= their time < `to`."""

    topic: Topic
    order_id: Uuid | None = None
    type: EventType | None = None
    start: Annotated[Timestamp | None, Field(alias="from")] = None
    end: Annotated[Timestamp | None, Field(alias="to")] = None


class Replay(Wire):
    """A replay; `events` are out so far, and it is done when `position` is `up_to`."""

    replay_id: UUID
    topic: str
    order_id: UUID | None
    type: str | None
    from_at: datetime | None
    to_at: datetime | None
    actor: str
    reason: str
    created_at: datetime
    state: Literal["RUNNING", "DONE", "CANCELLED", "FAILED"]
    up_to: int
    position: int
    events: int
    changed_at: datetime
    changed_by: str | None
    changed_why: str | None
    failure: str | None


class Replays(Wire):
    """Replays, newest first."""

    items: list[Replay]


class ReplayApi:
    """The handlers and their dependencies."""

    def __init__(self, settings: RelaySettings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool

    def routes(self) -> list[Route]:
        """Return the routes."""
        every = "/admin/v1/replays"
        one = f"{every}/{{id:uuid}}"
        starting = (ReplayTopicNotAllowed, ReplayOfNothing, EventsRemoved)
        cancelling, resuming = (ReplayNotFound, ReplayNotRunning), (ReplayNotFound, ReplayNotStopped, EventsRemoved)
        return [
            Route("POST", every, Scope.OPS, self.start, "Publish events again", {201: Replay}, starting, NewReplay),
            Route("GET", every, Scope.OPS_READ, self.list, "List replays", {200: Replays}),
            Route(
                "GET",
                one,
                Scope.OPS_READ,
                self.get,
                "A replay and how far it is",
                {200: Replay},
                (ReplayNotFound,),
            ),
            Route("POST", f"{one}/cancel", Scope.OPS, self.cancel, "Stop a replay", {200: Replay}, cancelling, By),
            Route(
                "POST",
                f"{one}/resume",
                Scope.OPS,
                self.resume,
                "Let a replay go on",
                {200: Replay},
                resuming,
                By,
            ),
        ]

    async def start(self, request: web.Request) -> web.Response:
        """POST /admin/v1/replays."""
        wanted = await read_body(request, NewReplay, timeout_seconds=self._settings.client_timeout_seconds)
        selection = Selection(wanted.order_id, wanted.type, wanted.start, wanted.end)
        return reply(await start(self._settings, self._pool, wanted.topic, selection, wanted.who(caller(request))), 201)

    async def list(self, _request: web.Request) -> web.Response:
        """GET /admin/v1/replays."""
        return reply({"items": await list_all(self._pool)})

    async def get(self, request: web.Request) -> web.Response:
        """GET /admin/v1/replays/{id}."""
        return reply(await get(self._pool, path_uuid(request, "id", ReplayNotFound)))

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /admin/v1/replays/{id}/cancel."""
        return reply(await cancel(self._pool, *await self._act(request)))

    async def resume(self, request: web.Request) -> web.Response:
        """POST /admin/v1/replays/{id}/resume."""
        return reply(await resume(self._pool, *await self._act(request)))

    async def _act(self, request: web.Request) -> Any:
        id_ = path_uuid(request, "id", ReplayNotFound)
        by = await read_body(request, By, timeout_seconds=self._settings.client_timeout_seconds)
        return id_, by.who(caller(request))


async def start(settings: RelaySettings, pool: Pool, topic: str, selection: Selection, who: Who) -> dict[str, Any]:
    """Record a replay of events into `topic`, which the relays will run, and return it.

    Raises ReplayTopicNotAllowed, ReplayOfNothing or EventsRemoved.
    """
    _check_topic(settings, topic)
    _check_selection(selection)
    async with pool.connection() as db:
        removed_up_to = await queries.removed_up_to(db)
        if selection.from_at is not None and removed_up_to is not None and selection.from_at <= removed_up_to:
            raise EventsRemoved.up_to(removed_up_to)
        row = await store.create_replay(db, uuid7(), topic, selection, who)
    log.info("replay.requested", replay_id=str(row["replay_id"]), topic=topic, actor=who.actor, reason=who.reason)
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
    """Return a replay and its progress. Raises ReplayNotFound."""
    async with pool.connection() as db:
        row = await store.get_replay(db, replay_id)
    if row is None:
        raise ReplayNotFound
    return dict(row)


async def list_all(pool: Pool) -> list[dict[str, Any]]:
    """Return the newest replays."""
    async with pool.connection() as db:
        return [dict(row) for row in await store.list_replays(db, LIST_MAX)]


async def cancel(pool: Pool, replay_id: UUID, who: Who) -> dict[str, Any]:
    """Stop a replay after its step under way. Raises ReplayNotFound or ReplayNotRunning."""
    async with pool.connection() as db:
        row = await store.cancel_replay(db, replay_id, who)
    if row is None:
        raise ReplayNotRunning(f"The replay is {(await get(pool, replay_id))['state']}.")
    return dict(row)


async def resume(pool: Pool, replay_id: UUID, who: Who) -> dict[str, Any]:
    """Resume a stopped or failed replay from its position.

    Raises ReplayNotFound, ReplayNotStopped or EventsRemoved.
    """
    async with pool.connection() as db:
        lost = await store.lost_to_replay(db, replay_id)
        if lost is not None:
            raise EventsRemoved.up_to(lost)
        row = await store.resume_replay(db, replay_id, who)
    if row is None:
        raise ReplayNotStopped(f"The replay is {(await get(pool, replay_id))['state']}.")
    return dict(row)
