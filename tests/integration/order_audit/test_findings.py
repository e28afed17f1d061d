"""The audit finds every direct change of the books, with its worth; it repairs orphans and changes nothing else."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from services.order.audit.passes import Auditor
from services.order.audit.rules import Finding, Kind
from shared.ids import uuid7
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order
from tests.infrastructure.stack import Shop
from tests.infrastructure.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
PRICE = 1000
GRACE_MILLISECONDS = 300  # slightly longer than the auditor's


@dataclass(frozen=True, slots=True)
class Sale:
    """An order of three units with a coupon of 10 per cent."""

    order_id: str
    user: str
    product: str
    coupon: str


async def a_sale(shop: Shop, payment: str = "now") -> Sale:
    """Place and pay an order of three units."""
    product, user = await a_product(shop, price=PRICE, stock=10), await a_user(shop, 10_000)
    coupon = await a_coupon(shop, user)
    body = an_order(user, product, coupon_id=coupon, payment=payment)
    body["lines"][0]["quantity"] = 3
    order = await shop.order.post("/v1/orders", body)
    return Sale(order["order_id"], user, product, coupon)


async def found_by(auditor: Auditor) -> list[Finding]:
    """Return the findings of a pass."""
    return (await auditor.run()).findings


HOLD = "INSERT INTO products.holds (order_id, product_id, quantity, unit_price) VALUES ($1, $2, $3, 1000)"
TAKE = "UPDATE products.products SET stock = stock - $2 WHERE product_id = $1"
USE = """UPDATE coupons.coupons SET status = 'REDEEMED', order_id = $1, discount_amount = 10, held_at = now()
         WHERE coupon_id = $2"""
ENTRY = """INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, order_id, attempt,
                                         balance_after)
           SELECT user_id, entry_count + 1, gen_random_uuid(), 'debit', -$3::bigint, 'sales', $1, 9,
                  balance - $3::bigint
           FROM balances.accounts WHERE user_id = $2"""
ACCOUNT = "UPDATE balances.accounts SET balance = balance - $2, entry_count = entry_count + 1 WHERE user_id = $1"


async def hold(checkout: Checkout, order_id: UUID, product: str, units: int) -> None:
    """Hold stock for an order directly, with balanced books."""
    await checkout.db.execute(HOLD, order_id, product, units)
    await checkout.db.execute(TAKE, product, units)


async def debit(checkout: Checkout, order_id: UUID, user: str, amount: int) -> None:
    """Debit money for an order directly, with a balanced ledger."""
    await checkout.db.execute(ENTRY, order_id, user, amount)
    await checkout.db.execute(ACCOUNT, user, amount)


@pytest.mark.parametrize("make_id", [uuid7, uuid4], ids=["an id of ours", "an id of another kind"])
async def test_orphans_at_each_participant_are_found_reported_and_undone(
    checkout: Checkout, auditor: Auditor, make_id: Callable[[], UUID]
) -> None:
    shop = checkout.shop
    product, user = await a_product(shop, stock=10), await a_user(shop, 500)
    coupon = await a_coupon(shop, user)
    orders = {name: make_id() for name in ("product", "coupon", "balance")}
    await hold(checkout, orders["product"], product, 4)
    await checkout.db.execute(USE, orders["coupon"], coupon)
    await debit(checkout, orders["balance"], user, 70)
    if make_id is uuid7:
        with pytest.MonkeyPatch.context() as patch:
            # On a busy host, the requests above take longer than the auditor's own grace period.
            patch.setattr(auditor, "_grace_seconds", 60.0)
            assert await found_by(auditor) == [], "they are so young that their order may not be committed yet"
    await grown_old(orders["balance"])
    findings = await found_by(auditor)
    assert {(finding.participant, finding.order_id, finding.worth) for finding in findings} == {
        ("product", orders["product"], 4),
        ("coupon", orders["coupon"], 1),
        ("balance", orders["balance"], 70),
    }
    assert {finding.kind for finding in findings} == {Kind.ORPHAN}

    act = {"actor": "sue", "reason": "orphans"}
    would = await checkout.admin.post("/admin/v1/audit/repair", {**act, "dry_run": True})
    assert len(would["commands"]) == 3
    assert len(await found_by(auditor)) == 3, "a dry run repairs nothing"
    did = await checkout.admin.post("/admin/v1/audit/repair", act)
    assert did["commands"] == would["commands"]
    assert await found_by(auditor) == []
    assert (await shop.product.get(f"/v1/products/{product}"))["stock"] == 10
    assert (await shop.coupon.get(f"/v1/coupons/{coupon}"))["status"] == "AVAILABLE"
    assert (await shop.balance.get(f"/v1/accounts/{user}"))["balance"] == 500
    acts = (await checkout.admin.get("/admin/v1/acts"))["items"][:3]
    assert {one["order_id"] for one in acts} == {str(order_id) for order_id in orders.values()}
    assert {(one["act"], one["actor"]) for one in acts} == {("repair", "sue")}


async def grown_old(order_id: UUID) -> None:
    """Wait until an id is older than the grace period."""

    async def is_old() -> bool:
        return order_id.version != 7 or time.time_ns() // 1_000_000 - (order_id.int >> 80) > GRACE_MILLISECONDS

    await eventually(is_old, 5, "the end of the grace period")


async def test_a_hold_that_is_missing_is_found(checkout: Checkout, auditor: Auditor) -> None:
    sale = await a_sale(checkout.shop)
    await checkout.db.execute(
        "UPDATE products.holds SET status = 'RESTORED', restored_at = now() WHERE order_id = $1", sale.order_id
    )
    await checkout.db.execute(TAKE, sale.product, -3)
    (finding,) = await settled_findings(auditor, sale)
    assert (finding.kind, finding.participant, finding.worth) == (Kind.MISSING, "product", 3)
    await checkout.db.execute(
        "UPDATE products.holds SET status = 'HELD', restored_at = NULL WHERE order_id = $1", sale.order_id
    )
    await checkout.db.execute(TAKE, sale.product, 3)
    assert await found_by(auditor) == []


async def test_a_coupon_in_the_wrong_state_is_found(checkout: Checkout, auditor: Auditor) -> None:
    for payment, right, wrong in (("now", "REDEEMED", "RESERVED"), ("later", "RESERVED", "REDEEMED")):
        sale = await a_sale(checkout.shop, payment)
        await checkout.db.execute("UPDATE coupons.coupons SET status = $2 WHERE coupon_id = $1", sale.coupon, wrong)
        (finding,) = await settled_findings(auditor, sale)
        assert (finding.kind, finding.participant, finding.worth) == (Kind.DIFFERENT, "coupon", 1)
        assert (finding.due, finding.found) == ({sale.coupon: right}, {sale.coupon: wrong})
        await checkout.db.execute("UPDATE coupons.coupons SET status = $2 WHERE coupon_id = $1", sale.coupon, right)
    assert await found_by(auditor) == []


async def test_a_wrong_amount_is_found_and_no_repair_touches_it(checkout: Checkout, auditor: Auditor) -> None:
    sale = await a_sale(checkout.shop)
    await debit(checkout, UUID(sale.order_id), sale.user, 5)
    (finding,) = await settled_findings(auditor, sale)
    assert (finding.kind, finding.participant, finding.worth) == (Kind.DIFFERENT, "balance", 5)
    assert (finding.due, finding.found) == ({sale.user: 2700}, {sale.user: 2705})
    done = await checkout.admin.post("/admin/v1/audit/repair", {"actor": "sue", "reason": "try"})
    assert done["commands"] == []
    # The ledger is append-only, so the refund of the whole order corrects it.
    await checkout.shop.order.post(f"/v1/orders/{sale.order_id}/cancel", None)
    assert await found_by(auditor) == []


async def test_an_event_that_is_missing_is_found(checkout: Checkout, auditor: Auditor) -> None:
    sale = await a_sale(checkout.shop, "later")
    await checkout.shop.order.post(f"/v1/orders/{sale.order_id}/payment", None)
    rows = await checkout.db.fetch("SELECT * FROM orders.outbox WHERE order_id = $1 ORDER BY sequence", sale.order_id)
    put_back = """INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload)
                  VALUES ($1, $2, $3, $4, $5)"""
    for row in rows:
        await checkout.db.execute("DELETE FROM orders.outbox WHERE outbox_id = $1", row["outbox_id"])
        (finding,) = await settled_findings(auditor, sale)
        assert (finding.kind, finding.due) == (Kind.EVENTS, ["1 order.placed.v1", "2 order.paid.v1"])
        await checkout.db.execute(
            put_back, row["event_id"], row["order_id"], row["sequence"], row["type"], row["payload"]
        )
    assert await found_by(auditor) == []


async def test_books_that_do_not_add_up_by_themselves_are_found(checkout: Checkout, auditor: Auditor) -> None:
    sale = await a_sale(checkout.shop)
    await checkout.db.execute(TAKE, sale.product, 1)
    await checkout.db.execute("UPDATE balances.accounts SET balance = balance - 1 WHERE user_id = $1", sale.user)
    findings = await found_by(auditor)
    assert {(finding.kind, finding.participant, finding.worth) for finding in findings} == {
        (Kind.BOOKS, "product", 1),
        (Kind.BOOKS, "balance", 1),
    }
    assert sale.product in json.dumps(next(f.found for f in findings if f.participant == "product"))
    await checkout.db.execute(TAKE, sale.product, -1)
    await checkout.db.execute("UPDATE balances.accounts SET balance = balance + 1 WHERE user_id = $1", sale.user)
    assert await found_by(auditor) == []


async def settled_findings(auditor: Auditor, sale: Sale) -> list[Finding]:
    """Return the findings once the order is older than the grace period."""
    await grown_old(UUID(sale.order_id))
    return await found_by(auditor)
