"""The audit during traffic: no false alarm, every page, one auditor at a time, and its result as metrics."""

import asyncio
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from services.order.audit import passes
from services.order.audit.passes import FIRST, Auditor
from services.order.audit.rules import Finding, Kind
from services.order.audit.schedule import AT_RISK_AGE, AuditSchedule, publish
from shared.ids import uuid7
from shared.postgres.connections import Pool
from shared.refusals import Unavailable
from tests.infrastructure.books import violations
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.proxy import Mode
from tests.infrastructure.services import Answer
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order
from tests.infrastructure.waiting import eventually
from tests.integration.order_audit.test_findings import USE, a_sale, debit, grown_old, hold

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHECKOUTS = 240
AT_A_TIME = 24


@pytest.fixture
def busier(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass rests as long as it works. With its usual share, it rests for seconds while the machine is busy."""
    monkeypatch.setattr("services.order.audit.schedule.SHARE", 0.5)


class Shoppers:
    """Run customers who continuously place, pay, cancel and are refused."""

    def __init__(self, checkout: Checkout) -> None:
        self._world = checkout
        self._places = asyncio.Semaphore(AT_A_TIME)
        self.answers: list[Answer] = []

    async def shop(self, count: int) -> None:
        """Carry out `count` checkouts."""
        shop = self._world.shop
        products = [await a_product(shop, price=10 * n, stock=300) for n in range(5)]  # one has the price 0
        users = [await a_user(shop) for _ in range(5)]
        await asyncio.gather(*(self._buy(n, users[n % 5], products) for n in range(count)))

    async def _buy(self, number: int, user: str, products: list[str]) -> None:
        shop = self._world.shop
        async with self._places:
            coupon = await a_coupon(shop, user) if number % 2 else None
            body = an_order(user, products[number % 5], products[(number + 1) % 5])
            if coupon:
                body["coupon_id"] = coupon
            if number % 6 == 5:
                body["lines"][0]["quantity"] = 1000  # more than there is
            body["payment"] = "later" if number % 4 in (1, 2) else "now"
            answer = await shop.order.call("POST", "/v1/orders", body)
            self.answers.append(answer)
            if answer.status == 201:
                path = f"/v1/orders/{answer.body['order_id']}"
                for operation in (("payment",), ("payment", "cancel"), ("cancel",), ())[number % 4]:
                    self.answers.append(await shop.order.call("POST", f"{path}/{operation}"))


async def test_a_busy_system_raises_no_false_alarm(checkout: Checkout, auditor: Auditor) -> None:
    shoppers = Shoppers(checkout)
    beside, under_way = 0, 0
    while beside < 2 or not under_way:  # until passes ran beside checkouts, and found orders in progress
        shopping = asyncio.create_task(shoppers.shop(CHECKOUTS))
        while not shopping.done():
            report = await auditor.run()
            assert report.findings == [], report.view()
            under_way += report.under_way
            beside += 1
        await shopping

    async def all_audited() -> bool:  # the youngest orders are audited only after the grace period
        report = await auditor.run()
        assert report.clean, report.view()
        return report.orders >= CHECKOUTS

    await eventually(all_audited, 30, "a pass over all orders")
    assert {answer.status for answer in shoppers.answers} == {200, 201, 400}
    assert await violations(checkout.database.url) == []


async def test_every_page_is_read_whatever_the_ids(
    checkout: Checkout, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PAGE", 7)
    monkeypatch.setattr(passes, "_is_recent", lambda *_: False)
    product, user = await a_product(checkout.shop), await a_user(checkout.shop)
    orphans = [make() for make in (uuid4, uuid7) for _ in range(20)]
    for number, order_id in enumerate(orphans):
        if number % 3 == 0:
            await hold(checkout, order_id, product, 1)
        elif number % 3 == 1:
            await debit(checkout, order_id, user, 1)
        else:
            await checkout.db.execute(USE, order_id, await a_coupon(checkout.shop, user))
    for _ in range(10):
        await a_sale(checkout.shop)
    report = await auditor.run()
    orders = await checkout.value("SELECT count(*) FROM orders.orders")
    assert report.orders == orders > 7
    assert sorted(finding.order_id or uuid4() for finding in report.findings) == sorted(orphans)
    monkeypatch.setattr(passes, "PAGE", 500)
    again = await auditor.run()
    assert {str(finding) for finding in again.findings} == {str(finding) for finding in report.findings}
    await checkout.admin.post("/admin/v1/audit/repair", {"actor": "sue", "reason": "done"})
    assert (await auditor.run()).clean


async def test_orders_too_young_to_be_compared_are_counted_on_every_page(
    checkout: Checkout, pool: Pool, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PAGE", 7)
    for _ in range(10):
        await a_sale(checkout.shop)
    await hold(checkout, uuid7(), await a_product(checkout.shop), 1)  # held for an order that is not committed yet
    orders = await checkout.value("SELECT count(*) FROM orders.orders")
    report = await Auditor(pool, auditor._books, grace_seconds=3600).run()
    assert (report.recent, report.orders, report.clean) == (orders, 0, True)
    assert report.view()["recent"] == orders
    await checkout.admin.post("/admin/v1/audit/repair", {"actor": "sue", "reason": "done"})


@pytest.mark.usefixtures("busier")
async def test_one_process_audits_and_another_takes_over_when_it_is_gone(
    checkout: Checkout, pool: Pool, auditor: Auditor
) -> None:
    assert await checkout.value("SELECT count(*) FROM orders.duties WHERE duty = 'audit'") == 1, (
        "the checkout's own audit has had its first pass"
    )
    await relieve(checkout)
    async with asyncio.TaskGroup() as group:
        schedules = [AuditSchedule(uuid7(), pool, auditor, interval_seconds=0.2) for _ in range(3)]
        tasks = [group.create_task(schedule.run()) for schedule in schedules]

        async def somebody_audits() -> int:
            return sum(schedule.last is not None for schedule in schedules)

        assert await eventually(somebody_audits, 10, "a pass") == 1
        first = next(n for n, schedule in enumerate(schedules) if schedule.last)
        report = schedules[first].last
        await eventually(lambda: another(schedules[first], report), 10, "a further pass")
        assert await somebody_audits() == 1, "the leader stays the same"
        tasks[first].cancel()

        async def another_audits() -> bool:
            return await somebody_audits() == 2

        await eventually(another_audits, 10, "a pass of another process")
        for task in tasks:
            task.cancel()


async def test_a_process_that_lost_the_leadership_reports_no_value_at_risk(
    checkout: Checkout, pool: Pool, auditor: Auditor
) -> None:
    await relieve(checkout)
    schedule = AuditSchedule(uuid7(), pool, auditor, interval_seconds=60)
    try:
        assert await schedule._lead_and_report()
        AT_RISK_AGE.set(1000)  # as of a saga that was live at the last interval
        # As another process that takes it over: this one paused for longer than its lease.
        await checkout.db.execute("UPDATE orders.duties SET holder = $1, lease_until = 'infinity'", uuid7())
        assert not await schedule._lead_and_report()
        assert value("value_at_risk_oldest_seconds") == 0
    finally:
        await relieve(checkout)


async def relieve(checkout: Checkout) -> None:
    """Take the leadership from the checkout's own audit, which asks for it again in an hour."""
    await checkout.db.execute("DELETE FROM orders.duties")


async def another(schedule: AuditSchedule, report: object) -> bool:
    """Return whether there was another pass since."""
    return schedule.last is not report


@pytest.mark.usefixtures("busier")
async def test_audit_fails_but_reports_value_at_risk_while_a_participant_is_down(
    checkout: Checkout, pool: Pool, auditor: Auditor
) -> None:
    product, user = await a_product(checkout.shop, price=300), await a_user(checkout.shop)
    body = an_order(user, product, coupon_id=await a_coupon(checkout.shop, user))
    failed = value("audit_passes_failed_total")
    await relieve(checkout)
    schedule = AuditSchedule(uuid7(), pool, auditor, interval_seconds=0.2)
    auditing, placing = None, None
    checkout.ways["coupon"].set(Mode.CLOSED)
    try:
        placing = asyncio.create_task(checkout.shop.order.call("POST", "/v1/orders", body))
        auditing = asyncio.create_task(schedule.run())

        async def reported() -> bool:
            return value("audit_passes_failed_total") > failed and value("value_at_risk", what="sagas") == 1

        await eventually(reported, 10, "a failed pass that reports the value at risk")
        assert value("value_at_risk", what="units") == value("value_at_risk", what="coupons") == 1
        assert value("value_at_risk_oldest_seconds") > 0
        assert schedule.last is None
        checkout.ways["coupon"].set(Mode.OPEN)
        assert (await placing).status in (201, 202)
        await eventually(lambda: another(schedule, None), 10, "a pass")
        await checkout.until_idle()

        async def nothing_at_risk() -> bool:
            return value("value_at_risk", what="sagas") == value("value_at_risk_oldest_seconds") == 0

        await eventually(nothing_at_risk, 10, "no value at risk")
    finally:
        checkout.ways["coupon"].set(Mode.OPEN)
        for task in (auditing, placing):
            if task is not None:
                task.cancel()


def value(name: str, **labels: str) -> float:
    """Return a metric of this process; 0 before it was set."""
    return REGISTRY.get_sample_value(name, labels) or 0


async def test_result_of_a_pass_is_reported_as_metrics(auditor: Auditor) -> None:
    report = await auditor.run()
    report.findings.append(Finding(Kind.ORPHAN, "product", uuid7(), {}, {"cup": 4}, 4))
    report.findings.append(Finding(Kind.MISSING, "balance", uuid7(), {"ann": 5}, {}, 5))
    publish(report)
    assert [value("audit_violations", kind=kind) for kind in ("orphan", "missing", "events")] == [1, 1, 0]
    assert [value("audit_orphans_worth", participant=name) for name in ("product", "balance")] == [4, 0]
    assert value("audit_last_pass_timestamp_seconds") == pytest.approx(report.started_at.timestamp(), abs=60)
    publish(await auditor.run())
    assert value("audit_violations", kind="orphan") == value("audit_orphans_worth", participant="product") == 0


async def test_a_pass_lets_others_work_after_each_page_and_each_book(
    checkout: Checkout, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PAGE", 2)
    await asyncio.gather(*(a_sale(checkout.shop) for _ in range(5)))
    rests: list[float] = []

    async def rest(worked_seconds: float) -> None:
        rests.append(worked_seconds)

    report = await auditor.run(rest)
    assert len(rests) >= report.orders // 2 + 3 > 3
    assert 0 < sum(rests) <= report.seconds


async def test_a_pass_ends_when_another_process_has_the_duty(checkout: Checkout, pool: Pool, auditor: Auditor) -> None:
    schedule = AuditSchedule(uuid7(), pool, auditor, interval_seconds=0.001)
    taken = """
        INSERT INTO orders.duties (duty, holder, lease_until)
        VALUES ('audit', gen_random_uuid(), now() + interval '1 hour')
        ON CONFLICT (duty) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
    """
    async with pool.connection() as db:
        await db.execute(taken)
        with pytest.raises(Unavailable, match="Another process audits"):
            await schedule._keep_to_share(0.0001)
    await checkout.db.execute("DELETE FROM orders.duties")


async def test_hold_of_a_slot_that_leaves_during_a_pass_is_no_orphan(checkout: Checkout, auditor: Auditor) -> None:
    order_id = uuid7(slot=7)
    product = await a_product(checkout.shop)
    await hold(checkout, order_id, product, 1)
    await grown_old(order_id)
    assert [finding.order_id for finding in (await auditor.run()).findings] == [order_id]

    async def leave(_worked_seconds: float) -> None:
        await checkout.db.execute(
            "INSERT INTO orders.closed_slots VALUES (7, 'gone', $1) ON CONFLICT DO NOTHING", FIRST
        )

    try:
        assert (await auditor.run(leave)).findings == []
    finally:
        await checkout.db.execute("DELETE FROM orders.closed_slots")
        await checkout.db.execute("DELETE FROM products.holds WHERE order_id = $1", order_id)
        await checkout.db.execute("UPDATE products.products SET stock = stock + 1 WHERE product_id = $1", product)
