"""The audit for operators: run it now, release what is held without an order, take again what a restore has lost."""

import asyncio
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web
from pydantic import Field

from services.order import store
from services.order.admin import acts
from services.order.audit import store as audit_store
from services.order.audit.books import BookReader
from services.order.audit.passes import Auditor, Report
from services.order.audit.repairs import lacking, repairs
from services.order.audit.rules import Finding as Found
from services.order.audit.rules import Kind
from services.order.audit.schedule import publish
from services.order.engine.participants import Participants
from services.order.product_shards import participant_at, shard_of
from services.order.saga import Command, Participant
from services.order.settings import Settings
from shared.contracts.scopes import Scope
from shared.contracts.types import Wire
from shared.http.callers import caller
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import read_body
from shared.operators import Act, Who
from shared.postgres.connections import Pool

SENT_MAX = 1000  # commands at a time: the queue to a participant is bounded


class Finding(Wire):
    """A disagreement about one order, or about a participant's own books."""

    kind: Kind
    participant: str
    order_id: UUID | None
    due: Any
    found: Any
    worth: int | str


class Cell(Wire):
    """What a cell owns: as in its CELL_SLOTS and CELL_SLOTS_SINCE."""

    slots: str
    slots_since: datetime | None


class AuditReport(Wire):
    """What a pass of the audit found. Integers beyond 64 bits are written as text."""

    clean: bool
    cell: Cell
    archived_before: datetime | None
    started_at: datetime
    seconds: float
    orders: int
    under_way: int
    recent: int
    violations: int
    findings: list[Finding]
    totals: dict[str, dict[str, int | str]]
    value_at_risk: dict[str, float | str]


class Repair(Act):
    """`restored`: the participants that were restored to an earlier time. They get again what they have forgotten."""

    restored: list[Participant] = Field(default=[])


class Repaired(Wire):
    """The commands that were sent, or would be, and those among them that their participant refused."""

    commands: list[dict[str, Any]]
    refused: list[dict[str, Any]]
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """A command of a repair; `problem`: why the participant refused it."""

    command: Command
    problem: dict[str, Any] | None = None


async def audit_now(settings: Settings, pool: Pool) -> Report:
    """Run one pass. Raises Unavailable when a participant or the database does not answer."""
    async with BookReader(
        settings.participant_urls, settings.credentials, settings.participants_tls, settings.audited_slots
    ) as books:
        grace, shards = settings.audit_grace_seconds, settings.product_shards
        own, before, days = settings.ownership, settings.orders_archived_before, settings.retention_days
        auditor = Auditor(
            *(pool, books),
            grace_seconds=grace,
            shards=shards,
            ownership=own,
            archived_before=before,
            retention_days=days,
        )
        return await auditor.run()


async def repair(
    settings: Settings,
    pool: Pool,
    participants: Participants,
    who: Who,
    *,
    dry_run: bool,
    restored: AbstractSet[Participant] = frozenset(),
) -> list[Sent]:
    """Audit, release what is held without an order, and send the `restored` participants what they lack.

    Each command is recorded before it is sent. All of them may be repeated: an undo, or a do that ran in the meantime,
    changes nothing. A do of an order that was closed in the meantime is refused. Raises Unavailable.
    """
    report = await audit_now(settings, pool)
    commands = repairs(report.findings)
    for finding in report.findings:
        if (command := await _lacking(pool, finding, restored)) is not None:
            commands.append(command)
    if dry_run:
        return [Sent(command) for command in commands]
    sent: list[Sent] = []
    for first in range(0, len(commands), SENT_MAX):
        some = commands[first : first + SENT_MAX]
        for command in some:
            await acts.record_repair(pool, who, command)
        outcomes = await asyncio.gather(*(participants.send(command) for command in some))
        for command, outcome in zip(some, outcomes, strict=True):
            sent.append(Sent(command, None if outcome.applied else dict(outcome.body)))
    return sent


async def _lacking(pool: Pool, finding: Found, restored: AbstractSet[Participant]) -> Command | None:
    """Return the command to send again. None if the order, as it is now, has none that explains the finding."""
    if finding.order_id is None or finding.kind not in (Kind.MISSING, Kind.DIFFERENT):
        return None
    if participant_at(finding.participant) not in restored:
        return None
    async with pool.connection() as db:
        row = await audit_store.get_order_to_audit(db, finding.order_id)
    if row is None or row["live"] or row["closing"]:
        return None
    return lacking(store.order_of(row), finding)


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
                "Give orphans back, and take again what restored participants have forgotten",
                {200: Repaired},
                (),
                Repair,
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
        act = await read_body(request, Repair, timeout_seconds=self._settings.client_timeout_seconds)
        sent = await repair(
            self._settings,
            self._pool,
            self._participants,
            act.who(caller(request)),
            dry_run=act.dry_run,
            restored=frozenset(act.restored),
        )
        refused = [
            {"order_id": one.command.order_id, "type": one.command.type, **one.problem} for one in sent if one.problem
        ]
        commands = [shard_of(one.command) | one.command.wire() for one in sent]
        return reply({"commands": commands, "refused": refused, "dry_run": act.dry_run})
