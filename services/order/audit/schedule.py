"""Runs the audit continuously, in one process at a time, and reports its results as metrics and log lines."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from services.order.audit import store
from services.order.audit.passes import Auditor, Report
from services.order.audit.rules import Kind
from services.order.product_shards import participant_at
from services.order.saga import Participant
from shared.leadership import Leadership
from shared.postgres.connections import Pool
from shared.process.tasks import LoopSupervisor
from shared.refusals import Unavailable

log = structlog.get_logger()

LEADERSHIP = "audit"
# The largest share of the time in which a pass works. When the books grow, a pass takes longer, but not more CPU per
# second.
SHARE = 0.05
VIOLATIONS = Gauge("audit_violations", "Disagreements that the last pass confirmed", ["kind"])
ORPHANS_WORTH = Gauge("audit_orphans_worth", "Money, units or coupons held without an order", ["participant"])
LAST_PASS = Gauge("audit_last_pass_timestamp_seconds", "When the last pass ended")
AT_WORK = Gauge(
    "audit_at_work_timestamp_seconds", "When the audit last made progress: by a page or by a participant's own checks"
)
PASS_SECONDS = Gauge("audit_pass_seconds", "How long the last pass took")
FAILED = Counter("audit_passes_failed_total", "Passes that could not read all books")
AT_RISK = Gauge("value_at_risk", "Money, units and coupons that live sagas tie up", ["what"])
AT_RISK_AGE = Gauge("value_at_risk_oldest_seconds", "Age of the oldest live saga")


class AuditSchedule:
    """Audits continuously while this process is the leader."""

    def __init__(self, process_id: UUID, pool: Pool, auditor: Auditor, *, interval_seconds: float) -> None:
        self._pool = pool
        self._leadership = Leadership(partial(store.hold_leadership, leadership=LEADERSHIP, holder=process_id))
        self._auditor = auditor
        self._interval_seconds = interval_seconds
        self._led_at = 0.0
        self._leads = False
        self.last: Report | None = None

    async def run(self) -> None:
        """Audit continuously while this process leads."""
        supervisor = LoopSupervisor("audit", "audit.incomplete")
        while True:
            with supervisor:
                if await self._lead_and_report():
                    self.last = await self._auditor.run(self._keep_to_share)
                    publish(self.last)
            if supervisor.failures:
                FAILED.inc()
            await asyncio.sleep(supervisor.pause(self._interval_seconds))

    async def _lead_and_report(self) -> bool:
        """Take or keep the leadership; report the value at risk as the leader. Return whether this process leads."""
        # For three intervals: a pass may take longer than one, and a leader that died is replaced soon.
        async with self._pool.connection() as db:
            leads = await self._leadership.renew(db, 3 * self._interval_seconds)
        if leads:
            publish_value_at_risk(await self._auditor.value_at_risk())
        elif self._leads:  # otherwise it would report its last values for ever
            publish_value_at_risk({})
        self._leads = leads
        self._led_at = time.monotonic()
        return leads

    async def _keep_to_share(self, worked_seconds: float) -> None:
        """Sleep so that the audit keeps to its share of the time. Raises Unavailable once another process audits."""
        AT_WORK.set_to_current_time()
        left = worked_seconds * (1 / SHARE - 1)
        while left > 0:
            # During a pass too, the leadership is kept and the value at risk reported at each interval.
            nap = min(left, self._interval_seconds)
            await asyncio.sleep(nap)
            left -= nap
            if time.monotonic() - self._led_at >= self._interval_seconds and not await self._lead_and_report():
                raise Unavailable("Another process audits now.")


def publish(report: Report) -> None:
    """Set the metrics and log what was found."""
    for kind in Kind:
        VIOLATIONS.labels(kind.value).set(sum(finding.kind is kind for finding in report.findings))
    for participant in Participant:
        worth = sum(
            finding.worth
            for finding in report.findings
            if finding.kind is Kind.ORPHAN and participant_at(finding.participant) is participant
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
