"""The audit for operators: run it now, and give back what is held for nobody."""

from typing import Any

from aiohttp import web

from services.order.admin import acts
from services.order.audit.books import BookReader
from services.order.audit.passes import Auditor, Report
from services.order.audit.schedule import publish, repair, repairs
from services.order.engine.participants import Participants
from services.order.saga import Command
from services.order.settings import Settings
from shared.contracts.types import Wire
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import read_body
from shared.operators import Act, Who
from shared.postgres import Pool


class AuditReport(Wire):
    """What a pass of the audit found."""

    clean: bool
    violations: int
    findings: list[dict[str, Any]]


class Repaired(Wire):
    """The undos that were sent, or would be."""

    commands: list[dict[str, Any]]
    dry_run: bool


async def audit_now(settings: Settings, pool: Pool) -> Report:
    """Run one pass. Raises Unavailable when a participant or the database does not answer."""
    async with BookReader(settings.participant_urls) as books:
        return await Auditor(pool, books, grace_seconds=settings.audit_grace_seconds).run()


async def repair_orphans(
    settings: Settings, pool: Pool, participants: Participants, who: Who, *, dry_run: bool
) -> list[Command]:
    """Audit, and give back what is held for nobody; each undo is recorded. Raises Unavailable."""
    report = await audit_now(settings, pool)
    commands = repairs(report.findings)
    if commands and not dry_run:
        for command in commands:
            await acts.record_repair(pool, who, command)
        await repair(participants, commands)
    return commands


class AuditApi:
    """The handlers and what they need."""

    def __init__(self, settings: Settings, pool: Pool, participants: Participants) -> None:
        self._settings = settings
        self._pool = pool
        self._participants = participants

    def routes(self) -> list[Route]:
        """Return the table of calls."""
        one, hour = "/admin/v1/audit", 3600.0  # far more than a pass over millions of orders takes
        return [
            Route("POST", one, self.audit, "Run a pass of the audit now", {200: AuditReport}, deadline_seconds=hour),
            Route(
                "POST",
                f"{one}/repair",
                self.repair,
                "Give orphans back",
                {200: Repaired},
                (),
                Act,
                deadline_seconds=hour,
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
        commands = await repair_orphans(self._settings, self._pool, self._participants, act.who(), dry_run=act.dry_run)
        return reply({"commands": [command.wire() for command in commands], "dry_run": act.dry_run})
