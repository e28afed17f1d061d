"""The audit for operators: run it now, and release what is held without an order."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from services.order.admin import acts
from services.order.audit.books import BookReader
from services.order.audit.passes import Auditor, Report
from services.order.audit.rules import Kind
from services.order.audit.schedule import publish, repairs
from services.order.engine.participants import Participants
from services.order.saga import Command
from services.order.settings import Settings
from shared.contracts.scopes import Scope
from shared.contracts.types import Wire
from shared.http.callers import caller
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import read_body
from shared.operators import Act, Who
from shared.postgres.connections import Pool


class Finding(Wire):
    """A disagreement about one order, or about a participant's own books."""

    kind: Kind
    participant: str
    order_id: UUID | None
    due: Any
    found: Any
    worth: int | str


class AuditReport(Wire):
    """What a pass of the audit found. Integers beyond 64 bits are written as text."""

    clean: bool
    started_at: datetime
    seconds: float
    orders: int
    under_way: int
    violations: int
    findings: list[Finding]
    totals: dict[str, dict[str, int | str]]
    value_at_risk: dict[str, float | str]


class Repaired(Wire):
    """The undos that were sent, or would be."""

    commands: list[dict[str, Any]]
    dry_run: bool


async def audit_now(settings: Settings, pool: Pool) -> Report:
    """Run one pass. Raises Unavailable when a participant or the database does not answer."""
    async with BookReader(settings.participant_urls, settings.credentials, settings.participants_tls) as books:
        return await Auditor(pool, books, grace_seconds=settings.audit_grace_seconds).run()


async def repair_orphans(
    settings: Settings, pool: Pool, participants: Participants, who: Who, *, dry_run: bool
) -> list[Command]:
    """Audit, release what is held without an order, and record each undo. Raises Unavailable."""
    report = await audit_now(settings, pool)
    commands = repairs(report.findings)
    if commands and not dry_run:
        for command in commands:
            await acts.record_repair(pool, who, command)
        # They are idempotent: an undo that ran in the meantime changes nothing.
        await asyncio.gather(*(participants.send(command) for command in commands))
    return commands


class AuditApi:
    """The handlers and their dependencies."""

    def __init__(self, settings: Settings, pool: Pool, participants: Participants) -> None:
        self._settings = settings
        self._pool = pool
        self._participants = participants

    def routes(self) -> list[Route]:
        """Return the routes."""
        one, hour = "/admin/v1/audit", 3600.0  # far longer than a pass over millions of orders
        by_operators: dict[str, Any] = {"deadline_seconds": hour}
        return [
            Route(
                "POST", one, Scope.OPS, self.audit, "Run a pass of the audit now", {200: AuditReport}, **by_operators
            ),
            Route(
                "POST",
                f"{one}/repair",
                Scope.OPS,
                self.repair,
                "Give orphans back",
                {200: Repaired},
                (),
                Act,
                **by_operators,
            ),
        ]

    async def audit(self, _request: web.Request) -> web.Response:
        """POST /admin/v1/audit."""
        report = await audit_now(self._settings, self._pool)
        publish(report)
        return reply(report.view())

    async def repair(self, request: web.Request) -> web.Response:
        """POST /admin/v1/audit/repair."""
        act = await read_body(request, Act, timeout_seconds=self._settings.client_timeout_seconds)
        commands = await repair_orphans(
            self._settings, self._pool, self._participants, act.who(caller(request)), dry_run=act.dry_run
        )
        return reply({"commands": [command.wire() for command in commands], "dry_run": act.dry_run})
