"""One pass of the audit: merges orders and the participants' holds by order id, and confirms each difference.

A pass skips orders with a live saga, and ids younger than the grace period. It reads the books at slightly different
times. So a difference counts only if a second read of the order and its holds, after the grace period, confirms it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.order import store
from services.order.audit import rules
from services.order.audit import store as audit_store
from services.order.audit.books import LAST, BookReader
from services.order.audit.rules import Finding, Holds
from services.order.product_shards import ONE_PRODUCT_SERVICE, ProductShards, participant_at
from shared.encoding import to_json
from shared.postgres.connections import Pool, Row
from shared.process.settings import RETENTION_DAYS
from shared.slots import ONE_CELL, Ownership, is_in, least_id

PAGE = 500  # orders per page: small enough not to slow down concurrent checkouts
FINDINGS_MAX = 1000  # the most that a report lists; it counts all
FIRST = UUID(int=0)
# Called with the seconds that the pass has worked since its last pause.
Rest = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Report:
    """The results of a pass. `orders` were compared, except those `under_way`; `recent` ones were too young for it.
    `value_at_risk`: what live sagas tie up, and the age of the oldest saga in seconds. `ownership`: whose orders.
    `archived_before`: orders that were placed before may be archived, and were not compared."""

    started_at: datetime
    ownership: Ownership = ONE_CELL
    archived_before: datetime | None = None
    seconds: float = 0.0
    orders: int = 0
    under_way: int = 0
    recent: int = 0
    findings: list[Finding] = field(default_factory=list)
    totals: dict[str, Mapping[str, int]] = field(default_factory=dict)
    value_at_risk: dict[str, float] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Return whether the books balance."""
        return not self.findings

    def view(self) -> dict[str, Any]:
        """Return the report as operators see it."""
        return {
            "clean": self.clean,
            "cell": {"slots": " ".join(self.ownership.words), "slots_since": self.ownership.moment},
            "archived_before": self.archived_before,
            "started_at": self.started_at,
            "seconds": round(self.seconds, 3),
            "orders": self.orders,
            "under_way": self.under_way,
            "recent": self.recent,
            "violations": len(self.findings),
            "findings": [finding.view() for finding in self.findings[:FINDINGS_MAX]],
            "totals": to_json(self.totals),
            "value_at_risk": to_json(self.value_at_risk),
        }


class Auditor:
    """Runs passes."""

    def __init__(
        self,
        pool: Pool,
        books: BookReader,
        *,
        grace_seconds: float,
        shards: ProductShards = ONE_PRODUCT_SERVICE,
        ownership: Ownership = ONE_CELL,
        archived_before: datetime | None = None,
        retention_days: int = RETENTION_DAYS,
    ) -> None:
        self._pool = pool
        self._books = books
        self._ownership = ownership
        self._archived_before = archived_before
        self._retention = timedelta(days=retention_days)
        self._shards = shards
        self._grace_seconds = grace_seconds

    async def run(self, rest: Rest | None = None) -> Report:
        """Run one pass over everything. Raises Unavailable when a participant or the database does not answer.

        It awaits `rest` after each page and after each participant's own checks, to leave time for other work.
        """
        report = Report(datetime.now(UTC), self._ownership, await self._first_audited())
        started = time.monotonic()
        rest = rest or _no_rest
        suspects = await self._compare_all(report, rest)
        if suspects:
            await asyncio.sleep(self._grace_seconds)
            for order_id in suspects:
                report.findings += await self._confirm_difference(order_id)
        for place in self._shards.all_places:
            began = time.monotonic()
            await self._own_checks(place, report)
            await rest(time.monotonic() - began)
        report.value_at_risk = await self.value_at_risk()
        report.seconds = time.monotonic() - started
        return report

    async def _first_audited(self) -> datetime | None:
        """Return before when orders may be archived, None if all are compared."""
        if self._archived_before is None:
            return None
        async with self._pool.connection() as db:
            now = await store.read_clock(db)
        # No younger order can be archived, because it may have sagas. So a wrong setting does not end the audit.
        return min(self._archived_before, now - self._retention)

    async def value_at_risk(self) -> dict[str, float]:
        """Return what live sagas tie up, and for how long. It calls no participant, so it works while one is down."""
        async with self._pool.connection() as db:
            return await audit_store.read_value_at_risk(db)

    async def _compare_all(self, report: Report, rest: Rest) -> list[UUID]:
        """Read all ids in ascending order; return those with a difference."""
        suspects: list[UUID] = []
        after = FIRST if report.archived_before is None else least_id(report.archived_before)
        while after != LAST:
            began = time.monotonic()
            orders, elsewhere, until, now = await self._orders_after(after)
            held: dict[str, dict[UUID, Holds]] = {}
            for place in self._shards.all_places:
                held[place], covered = await self._books.holds_after(place, after, PAGE)
                until = min(until, covered)
            for order_id in sorted({*orders, *(id_ for page in held.values() for id_ in page)}):
                if order_id > until:
                    break
                # A shared participant also holds for other cells, which audit their own orders.
                if order_id not in orders and not self._ownership.owns(order_id):
                    continue
                if is_in(elsewhere, order_id):
                    continue
                if _is_recent(order_id, now, self._grace_seconds):
                    report.recent += order_id in orders
                    continue
                found = {place: page.get(order_id, {}) for place, page in held.items()}
                if self._differs(order_id, orders.get(order_id), found, report):
                    suspects.append(order_id)
            after = until
            await rest(time.monotonic() - began)
        return suspects

    def _differs(self, order_id: UUID, row: Row | None, found: Mapping[str, Holds], report: Report) -> bool:
        if row is not None:
            report.orders += 1
            if row["live"]:
                report.under_way += 1
                return False
        return bool(self._findings(order_id, row, found))

    async def _orders_after(self, after: UUID) -> tuple[dict[UUID, Row], Mapping[int, UUID], UUID, datetime]:
        """Return a page of orders, the slots that another cell has, the last id that the page covers, and the
        database's time before the page was read."""
        async with self._pool.connection() as db:
            now = await store.read_clock(db)
            elsewhere = await audit_store.list_slots_elsewhere(db)
            rows = await audit_store.list_orders_to_audit(db, after, PAGE)
        until = rows[-1]["order_id"] if len(rows) == PAGE else LAST
        return {row["order_id"]: row for row in rows}, elsewhere, until, now

    async def _confirm_difference(self, order_id: UUID) -> list[Finding]:
        """Return the remaining differences. The order must be the same before and after its holds are read.

        Raises Unavailable if the database can't confirm that this is the order's newest state: it may be a primary that
        was replaced, and the holds may be of orders that only its successor has.
        """
        before, elsewhere = await self._order(order_id)
        found = {place: await self._books.holds_of(place, order_id) for place in self._shards.all_places}
        async with self._pool.confirmed(store.SQL["confirm_reads"]) as db:
            after = await audit_store.get_order_to_audit(db, order_id)
            elsewhere_now = await audit_store.list_slots_elsewhere(db)
        # A slot that moves while this reads takes its orders along, but product shards still hold for them.
        if is_in(elsewhere, order_id) or is_in(elsewhere_now, order_id):
            return []
        if _state(before) != _state(after) or (after is not None and after["live"]):
            return []
        return self._findings(order_id, after, found)

    async def _order(self, order_id: UUID) -> tuple[Row | None, Mapping[int, UUID]]:
        async with self._pool.connection() as db:
            elsewhere = await audit_store.list_slots_elsewhere(db)
            return await audit_store.get_order_to_audit(db, order_id), elsewhere

    def _findings(self, order_id: UUID, row: Row | None, found: Mapping[str, Holds]) -> list[Finding]:
        """Return the differences of an order without a live saga, or of holds without an order."""
        if row is None:
            return list(rules.compare(order_id, None, found, self._shards))
        order = store.order_of(row)
        if misplaced := list(rules.compare_cell(order, self._ownership)):
            return misplaced
        if stranded := list(rules.compare_progress(order)):
            return stranded  # its due holds depend on how it will end
        events = rules.compare_events(
            order, row["events"], forgotten=row["forgotten"], arrived_with=row["arrived_with"]
        )
        return [*rules.compare(order_id, order, found, self._shards), *events]

    async def _own_checks(self, place: str, report: Report) -> None:
        books = await self._books.own_checks(place)
        # The totals of product shards are added up: they count different products.
        before = report.totals.get(participant_at(place).value, {})
        report.totals[participant_at(place).value] = {
            name: total + before.get(name, 0) for name, total in books.totals.items()
        }
        for check in books.checks:
            if check.violations:
                report.findings.append(
                    Finding(rules.Kind.BOOKS, str(place), None, check.name, check.examples, check.violations)
                )


async def _no_rest(_worked_seconds: float) -> None:
    """Do not pause: an operator waits for the result."""


def _state(row: Row | None) -> tuple[Any, ...] | None:
    return None if row is None else (row["status"], row["closing"], row["live"], row["event_sequence"])


def _is_recent(order_id: UUID, now: datetime, grace_seconds: float) -> bool:
    """Return whether a UUIDv7 was made within the grace period, by the database's clock: its order may not be
    committed yet. We never made an id from the future or of another version, so such an id is audited."""
    if order_id.version != 7:
        return False
    made_seconds = (order_id.int >> 80) / 1000
    return now.timestamp() - grace_seconds < made_seconds <= now.timestamp() + 60
