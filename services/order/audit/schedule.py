"""Runs the audit continuously, in one process at a time, and reports its results as metrics and log lines."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from services.order.audit import store
from services.order.audit.passes import Auditor, Report
from services.order.audit.rules import UNDO, Finding, Kind
from services.order.engine.participants import Participants
from services.order.saga import Command, Participant
from shared.background import LoopSupervisor
from shared.postgres import Pool
from shared.refusals import Unavailable

log = structlog.get_logger()

DUTY = "audit"
# The largest share of the time that a pass works. Books only grow: as they do, a pass takes longer, not more CPU.
SHARE = 0.05
VIOLATIONS = Gauge("audit_violations", "Disagreements that the last pass confirmed", ["kind"])
ORPHANS_WORTH = Gauge("audit_orphans_worth", "Money, units or coupons held for nobody", ["participant"])
LAST_PASS = Gauge("audit_last_pass_timestamp_seconds", "When the last pass ended")
AT_WORK = Gauge(
    "audit_at_work_timestamp_seconds", "When the audit last got on, by a page or a participant's own checks"
)
PASS_SECONDS = Gauge("audit_pass_seconds", "How long the last pass took")
FAILED = Counter("audit_passes_failed_total", "Passes that could not read all books")
AT_RISK = Gauge("value_at_risk", "Money, units and coupons that live sagas tie up", ["what"])
AT_RISK_AGE = Gauge("value_at_risk_oldest_seconds", "Age of the oldest live saga")
# How often the age of the oldest event is read, and the largest share of the time that this may take. Published events
# leave dead index entries. They cannot be removed while an older transaction is open, and each read passes them all.
OUTBOX_SECONDS = 5.0
OUTBOX_SHARE_MAX = 0.02
UNPUBLISHED_AGE = Gauge("outbox_oldest_unpublished_seconds", "Age of the oldest event that the relay has not published")


class AuditSchedule:
    """The continuous audit of this process, if the duty is its."""

    def __init__(self, process_id: UUID, pool: Pool, auditor: Auditor, *, interval_seconds: float) -> None:
        self._process_id = process_id
        self._pool = pool
        self._auditor = auditor
        self._interval_seconds = interval_seconds
        self._looked_at = 0.0
        self.last: Report | None = None

    async def run(self) -> None:
        """Audit, for ever, unless another process does, and watch the outbox in any case."""
        await asyncio.gather(self._audit(), self._watch_outbox())

    async def _watch_outbox(self) -> None:
        """Report how long events have waited for the relay. The relay cannot report it while it is down."""
        supervisor = LoopSupervisor("outbox", "outbox.check_failed")
        while True:
            began = time.monotonic()
            with supervisor:
                async with self._pool.connection() as db:
                    UNPUBLISHED_AGE.set(await store.oldest_unpublished_seconds(db))
            pause = max(OUTBOX_SECONDS, (time.monotonic() - began) / OUTBOX_SHARE_MAX)
            await asyncio.sleep(supervisor.pause(pause))

    async def _audit(self) -> None:
        supervisor = LoopSupervisor("audit", "audit.incomplete")
        while True:
            with supervisor:
                if await self._look():
                    self.last = await self._auditor.run(self._rest)
                    publish(self.last)
            if supervisor.failures:
                FAILED.inc()
            await asyncio.sleep(supervisor.pause(self._interval_seconds))

    async def _look(self) -> bool:
        """Keep the duty, or ask for it, and tell what is at risk; return whether it is this process' duty."""
        ours = await self._is_ours()
        if ours:
            publish_value_at_risk(await self._auditor.value_at_risk())
        self._looked_at = time.monotonic()
        return ours

    async def _rest(self, worked_seconds: float) -> None:
        """Sleep so that the audit keeps to its share of the time. Raises Unavailable once another process audits."""
        AT_WORK.set_to_current_time()
        left = worked_seconds * (1 / SHARE - 1)
        while left > 0:
            # The duty is kept meanwhile, and what is at risk told as often as between passes.
            nap = min(left, self._interval_seconds)
            await asyncio.sleep(nap)
            left -= nap
            if time.monotonic() - self._looked_at >= self._interval_seconds and not await self._look():
                raise Unavailable("Another process audits now.")

    async def _is_ours(self) -> bool:
        # Held for three intervals: a pass may take longer than one, and a dead holder is replaced soon.
        async with self._pool.connection() as db:
            return await store.hold_duty(db, DUTY, self._process_id, 3 * self._interval_seconds)


def publish(report: Report) -> None:
    """Set the metrics and log what was found."""
    for kind in Kind:
        VIOLATIONS.labels(kind.value).set(sum(finding.kind is kind for finding in report.findings))
    for participant in Participant:
        worth = sum(
            finding.worth
            for finding in report.findings
            if finding.kind is Kind.ORPHAN and finding.participant == participant.value
        )
        ORPHANS_WORTH.labels(participant.value).set(worth)
    LAST_PASS.set_to_current_time()
    PASS_SECONDS.set(report.seconds)
    publish_value_at_risk(report.value_at_risk)
    for finding in report.findings:
        log.error("audit.violation_found", **finding.view())


def publish_value_at_risk(value: Mapping[str, float]) -> None:
    """Set the metrics of what live sagas tie up."""
    for what in ("amount", "units", "coupons", "sagas"):
        AT_RISK.labels(what).set(value.get(what, 0))
    AT_RISK_AGE.set(value.get("oldest_seconds", 0))


def repairs(findings: Sequence[Finding]) -> list[Command]:
    """Return the undos that give orphans back. An operator must look at every other finding."""
    commands = []
    for finding in findings:
        if finding.kind is Kind.ORPHAN and finding.order_id is not None:
            participant = Participant(finding.participant)
            commands.append(Command(participant, UNDO[participant], str(finding.order_id), 0, {}))
    return commands


async def repair(participants: Participants, commands: Sequence[Command]) -> None:
    """Send the undos. They are idempotent, so an undo that ran in the meantime changes nothing. Raises Unavailable."""
    await asyncio.gather(*(participants.send(command) for command in commands))
