"""The operators' API for replays, beside the one for parked events."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import AfterValidator, Field

from services.relay.admin import replays
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
from shared.contracts.events import EVENTS
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import Wire, path_uuid, read_body
from shared.notation import Timestamp, Uuid
from shared.operators import By
from shared.postgres import Pool

Topic = Annotated[str, Field(pattern=replays.TOPIC)]


def _published(text: str) -> str:
    if text not in EVENTS:
        raise ValueError(f"must be one of {', '.join(EVENTS)}")
    return text


EventType = Annotated[str, AfterValidator(_published)]


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
    """The handlers and what they need."""

    def __init__(self, settings: RelaySettings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool

    def routes(self) -> list[Route]:
        """Return the table of calls."""
        every = "/admin/v1/replays"
        one = f"{every}/{{id:uuid}}"
        starting = (ReplayTopicNotAllowed, ReplayOfNothing, EventsRemoved)
        cancelling, resuming = (ReplayNotFound, ReplayNotRunning), (ReplayNotFound, ReplayNotStopped, EventsRemoved)
        return [
            Route("POST", every, self.start, "Publish events again", {201: Replay}, starting, NewReplay),
            Route("GET", every, self.list, "List replays", {200: Replays}),
            Route("GET", one, self.get, "A replay and how far it is", {200: Replay}, (ReplayNotFound,)),
            Route("POST", f"{one}/cancel", self.cancel, "Stop a replay", {200: Replay}, cancelling, By),
            Route("POST", f"{one}/resume", self.resume, "Let a replay go on", {200: Replay}, resuming, By),
        ]

    async def start(self, request: web.Request) -> web.Response:
        """POST /admin/v1/replays."""
        wanted = await read_body(request, NewReplay, timeout_seconds=self._settings.client_timeout_seconds)
        selection = Selection(wanted.order_id, wanted.type, wanted.start, wanted.end)
        return reply(await replays.start(self._settings, self._pool, wanted.topic, selection, wanted.who()), 201)

    async def list(self, _request: web.Request) -> web.Response:
        """GET /admin/v1/replays."""
        return reply({"items": await replays.list_all(self._pool)})

    async def get(self, request: web.Request) -> web.Response:
        """GET /admin/v1/replays/{id}."""
        return reply(await replays.get(self._pool, path_uuid(request, "id", ReplayNotFound)))

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /admin/v1/replays/{id}/cancel."""
        return reply(await replays.cancel(self._pool, *await self._act(request)))

    async def resume(self, request: web.Request) -> web.Response:
        """POST /admin/v1/replays/{id}/resume."""
        return reply(await replays.resume(self._pool, *await self._act(request)))

    async def _act(self, request: web.Request) -> Any:
        id_ = path_uuid(request, "id", ReplayNotFound)
        by = await read_body(request, By, timeout_seconds=self._settings.client_timeout_seconds)
        return id_, by.who()
