"""The operators' API under /admin/v1, on a separate listener that the gateway does not forward to."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import Field

from services.order.admin import acts
from services.order.admin.acts import SagaNotFound, SagaNotInState, State
from services.order.settings import Settings
from shared.contracts.scopes import Scope
from shared.contracts.types import Query, Wire
from shared.http.callers import caller
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import path_uuid, read_body, read_query
from shared.operators import Act
from shared.postgres.connections import Pool, Session

ACTS_MAX = 200
AgeSeconds = Annotated[float, Field(ge=0, le=10**9)]  # the database can subtract this from now


class SagasQuery(Query):
    """Which live sagas to list."""

    state: State | None = None
    older_than_seconds: AgeSeconds = 0


class LiveSaga(Wire):
    """A saga that has not ended."""

    saga_id: UUID
    order_id: UUID
    kind: str
    version: int
    status: str
    target: str | None
    attempt: int
    owner: UUID
    stuck: bool
    started_at: datetime
    age_seconds: float


class LiveSagas(Wire):
    """Live sagas, oldest first."""

    items: list[LiveSaga]


class SagaDetail(Wire):
    """A saga with its order, what it did and what it may still send."""

    saga_id: UUID
    kind: str
    version: int
    status: str
    target: str | None
    remaining: list[str]
    order: dict[str, Any]
    timeline: list[dict[str, Any]]


class Done(Wire):
    """The sagas that the act concerned, or would have."""

    sagas: list[UUID]
    dry_run: bool


class RecordedAct(Wire):
    """What an operator did; `saga_id` is null for a repair."""

    act_id: int
    at: datetime
    actor: str
    act: str
    order_id: UUID | None
    saga_id: UUID | None
    reason: str
    detail: dict[str, Any]


class Acts(Wire):
    """What operators did, newest first."""

    items: list[RecordedAct]


class LiveVersion(Wire):
    """The live sagas of one version of the definition: how many, and when the oldest started."""

    version: int
    live: int
    oldest: datetime


class Versions(Wire):
    """Live sagas by version of their definition."""

    items: list[LiveVersion]


class ProcessLease(Wire):
    """A process and its live sagas. Other processes take them unless the lease is `held`; it is null if given up."""

    process_id: UUID
    lease_until: datetime | None
    held: bool
    live: int
    oldest: datetime | None


class Leases(Wire):
    """The processes with a lease, and those that have live sagas without one."""

    items: list[ProcessLease]


class AdminApi:
    """The handlers and their dependencies."""

    def __init__(self, settings: Settings, pool: Pool, session: Callable[[], Session]) -> None:
        self._timeout = settings.client_timeout_seconds
        self._pool = pool
        self._session = session

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/admin/v1/sagas/{id:uuid}"
        refusals = (SagaNotFound, SagaNotInState)
        retry, force, resolve = (partial(self._act, name) for name in ("retry", "force", "resolve"))
        return [
            Route(
                "GET",
                "/admin/v1/sagas",
                Scope.OPS_READ,
                self.list,
                "List live sagas",
                {200: LiveSagas},
                query=SagasQuery,
            ),
            Route(
                "GET",
                one,
                Scope.OPS_READ,
                self.show,
                "Show a saga, by its id or its order's",
                {200: SagaDetail},
                (SagaNotFound,),
            ),
            Route(
                "POST",
                "/admin/v1/sagas/retry",
                Scope.OPS,
                self.retry_all,
                "Retry all live sagas now",
                {200: Done},
                (),
                Act,
            ),
            Route("POST", f"{one}/retry", Scope.OPS, retry, "Retry a saga now", {200: Done}, refusals, Act),
            Route("POST", f"{one}/force", Scope.OPS, force, "Undo a running saga", {200: Done}, refusals, Act),
            Route(
                "POST",
                f"{one}/resolve",
                Scope.OPS,
                resolve,
                "End a saga by hand",
                {200: Done},
                refusals,
                Act,
            ),
            Route("GET", "/admin/v1/acts", Scope.OPS_READ, self.list_acts, "List what operators did", {200: Acts}),
            Route(
                "GET",
                "/admin/v1/drain-status",
                Scope.OPS_READ,
                self.drain_status,
                "Count sagas by version",
                {200: Versions},
            ),
            Route("GET", "/admin/v1/leases", Scope.OPS_READ, self.list_leases, "List who has sagas", {200: Leases}),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """GET /admin/v1/sagas."""
        query = read_query(request, SagasQuery)
        items = await acts.list_sagas(self._pool, state=query.state, older_than_seconds=query.older_than_seconds)
        return reply({"items": items})

    async def show(self, request: web.Request) -> web.Response:
        """GET /admin/v1/sagas/{id}."""
        return reply(await acts.show(self._pool, path_uuid(request, "id", SagaNotFound)))

    async def retry_all(self, request: web.Request) -> web.Response:
        """POST /admin/v1/sagas/retry."""
        act = await read_body(request, Act, timeout_seconds=self._timeout)
        who = act.who(caller(request))
        live = await acts.list_sagas(self._pool, state=None, older_than_seconds=0)
        ids = [saga["saga_id"] for saga in live]
        if not act.dry_run:
            ids = await acts.retry(self._pool, ids, who)
        return reply({"sagas": ids, "dry_run": act.dry_run})

    async def list_acts(self, _request: web.Request) -> web.Response:
        """GET /admin/v1/acts."""
        return reply({"items": await acts.list_acts(self._pool, ACTS_MAX)})

    async def drain_status(self, _request: web.Request) -> web.Response:
        """GET /admin/v1/drain-status."""
        return reply({"items": await acts.drain_status(self._pool)})

    async def list_leases(self, _request: web.Request) -> web.Response:
        """GET /admin/v1/leases."""
        return reply({"items": await acts.list_leases(self._pool)})

    async def _act(self, name: str, request: web.Request) -> web.Response:
        """POST /admin/v1/sagas/{id}/retry, …/force and …/resolve."""
        id_ = path_uuid(request, "id", SagaNotFound)
        act = await read_body(request, Act, timeout_seconds=self._timeout)
        who = act.who(caller(request))
        saga = await acts.show(self._pool, id_)
        saga_id = saga["saga_id"]
        acts.require(name, saga)
        if not act.dry_run:
            if name == "force":
                await acts.force(self._pool, saga_id, who)
            elif name == "resolve":
                async with self._session() as session:
                    await acts.resolve(self._pool, session, saga_id, who)
            elif not await acts.retry(self._pool, [saga_id], who):
                raise SagaNotInState("Only a live saga can be retried.")
        return reply({"sagas": [saga_id], "dry_run": act.dry_run})
