"""The operators' API under /admin/v1, on a separate listener that the gateway does not forward to."""

from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from aiohttp import web

from services.relay.admin import acts
from services.relay.domain.refusals import EventNotFirst, EventNotParked, NothingToRedact
from services.relay.settings import RelaySettings
from shared.contracts.scopes import Scope
from shared.contracts.types import Wire
from shared.http.callers import caller
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import path_uuid, read_body
from shared.operators import Act
from shared.postgres.connections import Pool

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
    """The handlers and their dependencies."""

    def __init__(self, settings: RelaySettings, pool: Pool) -> None:
        self._timeout = settings.client_timeout_seconds
        self._pool = pool

    def routes(self) -> list[Route]:
        """Return the routes. `id` is an event's id, or an order's id for the order's first parked event."""
        every = "/admin/v1/parked"
        one = f"{every}/{{id:uuid}}"
        skip = partial(self._act, "skip")
        skipping, redacting = (EventNotParked, EventNotFirst), (EventNotParked, NothingToRedact)
        return [
            Route("GET", every, Scope.OPS_READ, self.list, "List parked events", {200: ParkedEvents}),
            Route(
                "POST",
                f"{every}/retry",
                Scope.OPS,
                self.retry_all,
                "Retry all parked events",
                {200: Done},
                (),
                Act,
            ),
            Route(
                "POST",
                f"{one}/retry",
                Scope.OPS,
                partial(self._act, "retry"),
                "Retry an order's events",
                {200: Done},
                (EventNotParked,),
                Act,
            ),
            Route("POST", f"{one}/skip", Scope.OPS, skip, "Give an event up", {200: Done}, skipping, Act),
            Route(
                "POST",
                f"{one}/redact",
                Scope.OPS,
                partial(self._act, "redact"),
                "Leave an event's lines out",
                {200: Done},
                redacting,
                Act,
            ),
            Route("GET", "/admin/v1/acts", Scope.OPS_READ, self.list_acts, "List what operators did", {200: Acts}),
        ]

    async def list(self, _request: web.Request) -> web.Response:
        """GET /admin/v1/parked."""
        return reply({"items": await acts.list_parked(self._pool)})

    async def retry_all(self, request: web.Request) -> web.Response:
        """POST /admin/v1/parked/retry."""
        act = await read_body(request, Act, timeout_seconds=self._timeout)
        events = await acts.retry_all(self._pool, act.who(caller(request)), dry_run=act.dry_run)
        return reply({"events": events, "dry_run": act.dry_run})

    async def list_acts(self, _request: web.Request) -> web.Response:
        """GET /admin/v1/acts."""
        return reply({"items": await acts.list_acts(self._pool, ACTS_MAX)})

    async def _act(self, name: acts.Name, request: web.Request) -> web.Response:
        """POST /admin/v1/parked/{id}/retry, …/skip and …/redact."""
        id_ = path_uuid(request, "id", EventNotParked)
        act = await read_body(request, Act, timeout_seconds=self._timeout)
        events = await acts.act(self._pool, name, id_, act.who(caller(request)), dry_run=act.dry_run)
        return reply({"events": events, "dry_run": act.dry_run})
