"""The saga definition changes while sagas of the old version are live, at every step of every kind."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
import structlog
from prometheus_client import REGISTRY

from services.order.admin import acts
from services.order.engine import recovery, starts
from services.order.saga import STEPS, UNDONE, Kind
from tests.infrastructure.books import violations
from tests.infrastructure.checkout import Checkout, Participants, ordering, participants
from tests.infrastructure.databases import Database
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order
from tests.infrastructure.stack import Shop
from tests.infrastructure.waiting import eventually
from tests.integration.order_admin.operators import command
from tests.integration.order_lifecycle.holding import Holder, Point, holding

pytestmark = pytest.mark.asyncio(loop_scope="module")
SENT = (False, True)
FORWARD = [(kind, Point(step.do, sent)) for kind, steps in STEPS.items() for step in steps for sent in SENT]
# A cancelled order that was paid, and a placement that was refused at its last step.
BACKWARD = [(Kind.CLOSE, Point(step.undo, sent)) for step in UNDONE[Kind.CLOSE] for sent in SENT]
REFUSED = [(Kind.PLACE_NOW, Point(step.undo, sent)) for step in UNDONE[Kind.PLACE_NOW][1:] for sent in SENT]
QUICK = {"request_deadline_seconds": 0.2, "shutdown_seconds": 0.5}
ROWS = """SELECT saga_id, order_id, kind, version, status, owner FROM orders.sagas
          WHERE status IN ('RUNNING', 'COMPENSATING') ORDER BY saga_id"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def others(database: Database) -> AsyncIterator[Participants]:
    """Serve the participants, which know nothing of versions."""
    async with participants(database) as others:
        yield others


@pytest.fixture
def holder() -> Iterator[Holder]:
    """Return what blocks sagas."""
    with holding() as holder:
        yield holder


def build(patch: pytest.MonkeyPatch, version: int, *known: int) -> None:
    """Make the next process a build that starts sagas of a version, and knows these versions."""
    patch.setattr(starts, "VERSION", version)
    patch.setattr(recovery, "VERSIONS_KNOWN", known)
    patch.setattr(acts, "VERSIONS_KNOWN", known)


class Buyer:
    """Leaves one live saga at each point."""

    def __init__(self, shop: Shop, holder: Holder) -> None:
        self._shop, self._holder = shop, holder

    async def leave(self, kind: Kind, point: Point, *, poor: bool = False) -> str:
        """Return an order whose saga of this kind is blocked at the point."""
        product, user = await a_product(self._shop), await a_user(self._shop, 5 if poor else 1000)
        body = an_order(user, product, coupon_id=await a_coupon(self._shop, user))
        body["payment"] = "later" if kind in (Kind.PLACE_LATER, Kind.PAY) else "now"
        if kind in (Kind.PLACE_NOW, Kind.PLACE_LATER):
            self._holder.next = point
        order_id = str((await self._call("/v1/orders", body))["order_id"])
        if kind in (Kind.PAY, Kind.CLOSE):
            await eventually(lambda: self._at_rest(order_id), 10, "the order placed")
            self._holder.held[order_id] = point
            await self._call(f"/v1/orders/{order_id}/{'payment' if kind is Kind.PAY else 'cancel'}")
        return order_id

    async def _at_rest(self, order_id: str) -> bool:
        return (await self._shop.order.get(f"/v1/orders/{order_id}"))["status"] in ("PAID", "PENDING_PAYMENT")

    async def _call(self, path: str, body: Any = None) -> Mapping[str, Any]:
        answer = await self._shop.order.call("POST", path, body)
        assert answer.status in (200, 201, 202), answer
        found: Mapping[str, Any] = answer.body
        return found


async def test_sagas_of_an_old_version_wait_for_a_build_that_knows_it(
    database: Database, others: Participants, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: dict[str, str] = {}
    async with ordering(database, others, **QUICK) as old:
        buyer = Buyer(old.shop, holder)
        for kind, point in FORWARD:
            end = "PENDING_PAYMENT" if kind is Kind.PLACE_LATER else "PAID"
            expected[await buyer.leave(kind, point)] = end
        for kind, point in BACKWARD:
            expected[await buyer.leave(kind, point)] = "REFUNDED"
        for kind, point in REFUSED:
            expected[await buyer.leave(kind, point, poor=True)] = "REJECTED"
        left = await old.db.fetch(ROWS)
    assert {str(row["order_id"]) for row in left} == set(expected)
    assert len(left) == len(FORWARD) + len(BACKWARD) + len(REFUSED)
    holder.let_go()

    build(monkeypatch, 2, 2)
    with structlog.testing.capture_logs() as logs:
        async with ordering(database, others, **QUICK) as stranger:
            await a_new_order_is_of_version(stranger, 2)
            await left_alone(stranger, left)
    logged = {"event": "saga.version_unknown", "count": len(left), "known": [2]}
    assert logged.items() <= next(log for log in logs if log["log_level"] == "error").items()

    build(monkeypatch, 2, 1, 2)
    async with ordering(database, others, **QUICK) as new:
        await new.until_idle()
        await a_new_order_is_of_version(new, 2)
        for order_id, status in expected.items():
            assert (await new.shop.order.get(f"/v1/orders/{order_id}"))["status"] == status
        assert (await command(new, "drain-status", "--version", "1")).status == 0
    assert await violations(database.url) == []


async def a_new_order_is_of_version(checkout: Checkout, version: int) -> None:
    """A new order uses the new definition, and old sagas don't block it."""
    new = an_order(await a_user(checkout.shop), await a_product(checkout.shop))
    order_id = (await checkout.shop.order.call("POST", "/v1/orders", new)).body["order_id"]

    async def paid() -> bool:  # on a busy host it takes longer than the short deadline
        return bool((await checkout.shop.order.get(f"/v1/orders/{order_id}"))["status"] == "PAID")

    await eventually(paid, 10, "the end of a new order")
    assert await checkout.value("SELECT version FROM orders.sagas WHERE order_id = $1", order_id) == version


async def left_alone(checkout: Checkout, left: list[Any]) -> None:
    """Check that many sweeps change none of them, and that metrics and log report them."""

    async def metric_is_set() -> bool:
        return REGISTRY.get_sample_value("sagas_unknown_version") == len(left)

    await eventually(metric_is_set, 10, "the metric")
    assert await checkout.db.fetch(ROWS) == left
    status = await command(checkout, "drain-status", "--version", "1", "--json")
    assert status.status == 3
    (version,) = json.loads(status.out)
    assert (version["version"], version["live"], version["known"]) == (1, len(left), False)
    running = next(row for row in left if row["status"] == "RUNNING")
    closing = next(row for row in left if row["status"] == "COMPENSATING")
    for name, row in (("force", running), ("resolve", closing)):
        refused = await command(checkout, name, str(row["saga_id"]), "--by", "sue", "--reason", "impatience")
        assert refused.status == 1
        assert "use the build that knows it" in refused.err
    assert await checkout.db.fetch(ROWS) == left
    order = await checkout.shop.order.call("POST", f"/v1/orders/{closing['order_id']}/cancel")
    assert order.status in (202, 409), "its order can still be read"
