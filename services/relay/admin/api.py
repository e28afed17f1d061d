"""The operators' API under /admin/v1, on a listener of its own that the gateway never sees."""

from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from services.relay.admin import acts
from services.relay.domain.refusals import EventNotFirst, EventNotParked, NothingToRedact
from services.relay.settings import RelaySettings
from shared.contracts.types import Wire
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import path_uuid, read_body
from shared.operators import Act
from shared.postgres import Pool

ACTS_MAX = 200


class ParkedEvent(Wire):
    """An event that is set aside; `first` of its order, or behind the one that is."""

    event_id: UUID
    order_id: UUID
    sequence: int
    type: str
    shard: int
    bytes: int
    first: bool
    parked_at: datetime
    parked_reason: str


class ParkedEvents(Wire):
    """Parked events, order by order in sequence."""

    items: list[ParkedEvent]


class Concerned(Wire):
    """An event that an act concerned."""

    event_id: UUID
    order_id: UUID
    sequence: int
    type: str


class Done(Wire):
    """The events that the act concerned, or would have."""

    events: list[Concerned]
    dry_run: bool


class RecordedAct(Wire):
    """What an operator did."""

    act_id: int
    at: datetime
    actor: str
    act: str
    order_id: UUID
    event_id: UUID
    reason: str
    detail: dict[str, Any]


class Acts(Wire):
    """What operators did, newest first."""

    items: list[RecordedAct]


class AdminApi:
    """The handlers and what they need."""

    def __init__(self, settings: RelaySettings, pool: Pool) -> None:
        self._timeout = settings.client_timeout_seconds
        self._pool = pool

    def routes(self) -> list[Route]:
        """Return the table of calls. `id` is an event's or, for the first parked event of an order, the order's."""
        every = "/admin/v1/parked"
        one = f"{every}/{{id:uuid}}"
        skipping, redacting = (EventNotParked, EventNotFirst), (EventNotParked, NothingToRedact)
        return [
            Route("GET", every, self.list, "List parked events", {200: ParkedEvents}),
            Route("POST", f"{every}/retry", self.retry_all, "Retry all parked events", {200: Done}, (), Act),
            Route("POST", f"{one}/retry", self.retry, "Retry an order's events", {200: Done}, (EventNotParked,), Act),
            Route("POST", f"{one}/skip", self.skip, "Give an event up", {200: Done}, skipping, Act),
            Route("POST", f"{one}/redact", self.redact, "Leave an event's lines out", {200: Done}, redacting, Act),
            Route("GET", "/admin/v1/acts", self.list_acts, "List what operators did", {200: Acts}),
        ]

    async def list(self, _request: web.Request) -> web.Response:
        """GET /admin/v1/parked."""
        return reply({"items": await acts.list_parked(self._pool)})

    async def retry_all(self, request: web.Request) -> web.Response:
        """POST /admin/v1/parked/retry."""
        act = await read_body(request, Act, timeout_seconds=self._timeout)
        events = await acts.retry_all(self._pool, act.who(), dry_run=act.dry_run)
        return reply({"events": events, "dry_run": act.dry_run})

    async def retry(self, request: web.Request) -> web.Response:
        """POST /admin/v1/parked/{id}/retry."""
        return await self._act(request, "retry")

    async def skip(self, request: web.Request) -> web.Response:
        """POST /admin/v1/parked/{id}/skip."""
        return await self._act(request, "skip")

    async def redact(self, request: web.Request) -> web.Response:
        """POST /admin/v1/parked/{id}/redact."""
        return await self._act(request, "redact")

    async def list_acts(self, _request: web.Request) -> web.Response:
        """GET /admin/v1/acts."""
        return reply({"items": await acts.list_acts(self._pool, ACTS_MAX)})

    async def _act(self, request: web.Request, name: acts.Name) -> web.Response:
        id_ = path_uuid(request, "id", EventNotParked)
        act = await read_body(request, Act, timeout_seconds=self._timeout)
        events = await acts.act(self._pool, name, id_, act.who(), dry_run=act.dry_run)
        return reply({"events": events, "dry_run": act.dry_run})
