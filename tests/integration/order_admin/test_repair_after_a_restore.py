"""`repair --restored`: a participant that was restored to an earlier time gets again what it has forgotten."""

import time
from collections.abc import Mapping
from uuid import UUID

import pytest

from tests.infrastructure.books import violations
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.waiting import eventually
from tests.integration.order_admin.operators import Case, command, go_on, holds_of, placed

pytestmark = pytest.mark.asyncio(loop_scope="module")
GRACE_MILLISECONDS = 300  # slightly longer than the audit's
WHO = ("--by", "sue", "--reason", "a restore")
EVERYBODY = tuple(word for name in ("product", "coupon", "balance") for word in ("--restored", name))
# As after a restore to a time before the order. Only a superuser can turn off the ledger's own protection.
FORGET: Mapping[str, str] = {
    "product": """
        UPDATE products.products AS p SET stock = p.stock + h.quantity
        FROM products.holds AS h WHERE h.product_id = p.product_id AND h.order_id = '{order}' AND h.status = 'HELD';
        DELETE FROM products.holds WHERE order_id = '{order}';
        DELETE FROM products.outcomes WHERE order_id = '{order}';
        DELETE FROM products.gates WHERE order_id = '{order}';
    """,
    "coupon": """
        UPDATE coupons.coupons SET status = 'AVAILABLE', order_id = NULL, discount_amount = NULL, held_at = NULL
        WHERE order_id = '{order}';
        DELETE FROM coupons.outcomes WHERE order_id = '{order}';
        DELETE FROM coupons.gates WHERE order_id = '{order}';
    """,
    "balance": """
        SET LOCAL session_replication_role = replica;
        UPDATE balances.accounts AS a SET balance = balance - e.amount, entry_count = entry_count - 1
        FROM balances.entries AS e WHERE e.user_id = a.user_id AND e.order_id = '{order}';
        DELETE FROM balances.entries WHERE order_id = '{order}';
        DELETE FROM balances.outcomes WHERE order_id = '{order}';
        DELETE FROM balances.gates WHERE order_id = '{order}';
    """,
}


async def grown_old(case: Case) -> None:
    """Wait until the order is older than the grace period of the audit."""
    made_milliseconds = UUID(case.order_id).int >> 80

    async def is_old() -> bool:
        return time.time_ns() // 1_000_000 - made_milliseconds > GRACE_MILLISECONDS

    await eventually(is_old, 5, "the end of the grace period")


async def forget(checkout: Checkout, case: Case, *participants: str) -> None:
    """Let participants forget the order, once the audit looks at it."""
    await grown_old(case)
    for participant in participants:
        async with checkout.db.acquire() as db, db.transaction():
            await db.execute(FORGET[participant].format(order=case.order_id))


@pytest.mark.parametrize("payment", ["now", "later", "later, then paid"])
async def test_forgotten_order_is_taken_again_and_the_books_balance(checkout: Checkout, payment: str) -> None:
    case = await placed(checkout, payment.partition(",")[0])
    if payment.endswith("paid"):
        await go_on(checkout, case, "payment")
    await checkout.until_idle()
    held = await holds_of(checkout, case)
    await forget(checkout, case, "product", "coupon", "balance")
    assert await holds_of(checkout, case) == {}
    would = await command(checkout, "repair", *WHO, *EVERYBODY, "--dry-run", "--json")
    due = {"hold_stock", "redeem_coupon", "debit"} if payment != "later" else {"hold_stock", "reserve_coupon"}
    assert (would.status, {row["would"] for row in would.json}) == (0, due)
    assert await holds_of(checkout, case) == {}, "a dry run repairs nothing"
    did = await command(checkout, "repair", *WHO, *EVERYBODY, "--json")
    assert (did.status, {(row["did"], row["outcome"]) for row in did.json}) == (0, {(one, "applied") for one in due})
    assert await holds_of(checkout, case) == held
    assert (await command(checkout, "audit")).status == 0
    acts = (await command(checkout, "acts", "--json")).json[: len(due)]
    assert {(one["act"], one["order_id"], one["detail"]["type"]) for one in acts} == {
        ("repair", case.order_id, type_) for type_ in due
    }
    again = await command(checkout, "repair", *WHO, *EVERYBODY, "--json")
    assert (again.status, again.json) == (0, [])
    await go_on(checkout, case, "cancel")
    await checkout.until_idle()
    assert await violations(checkout.database.url) == []


async def test_only_a_participant_that_is_named_takes_orders_again(checkout: Checkout) -> None:
    case = await placed(checkout, "now")
    await forget(checkout, case, "product", "balance")
    for arguments, left in (((), 2), (("--restored", "coupon"), 2), (("--restored", "product"), 1)):
        assert (await command(checkout, "repair", *WHO, *arguments)).status == 0
        assert len((await command(checkout, "audit", "--json")).json["findings"]) == left
    assert (await command(checkout, "repair", *WHO, "--restored", "balance")).status == 0
    assert (await command(checkout, "audit")).status == 0


async def test_refused_order_is_named_and_its_cancellation_balances_the_books(checkout: Checkout) -> None:
    case = await placed(checkout, "now")
    await forget(checkout, case, "product")
    await checkout.db.execute("UPDATE products.products SET stock = 0, put_in = 0 WHERE product_id = $1", case.product)
    refused = await command(checkout, "repair", *WHO, *EVERYBODY, "--json")
    row = {"did": "hold_stock", "order_id": case.order_id, "outcome": "out-of-stock"}
    assert (refused.status, refused.json) == (4, [row])
    body = {"actor": "sue", "reason": "a restore", "restored": ["product"]}
    over_http = await checkout.admin.post("/admin/v1/audit/repair", body)
    (named,) = over_http["refused"]
    assert (named["order_id"], named["type"].rpartition("/")[2]) == (case.order_id, "out-of-stock")
    await go_on(checkout, case, "cancel")
    await checkout.until_idle()
    assert (await command(checkout, "audit")).status == 0


async def test_order_that_was_closed_at_a_participant_is_not_taken_again(checkout: Checkout) -> None:
    case = await placed(checkout, "now")
    await grown_old(case)
    # The participant is newer than the orders: there, the order was cancelled.
    await checkout.shop.product.command({"type": "restore_stock", "order_id": case.order_id, "attempt": 0})
    refused = await command(checkout, "repair", *WHO, *EVERYBODY, "--json")
    assert (refused.status, [row["outcome"] for row in refused.json]) == (4, ["fenced"])
    await go_on(checkout, case, "cancel")
    await checkout.until_idle()
    assert (await command(checkout, "audit")).status == 0


async def test_unknown_participant_is_refused(checkout: Checkout) -> None:
    assert (await command(checkout, "repair", *WHO, "--restored", "relay")).status == 2
    body = {"actor": "sue", "reason": "a restore", "restored": ["relay"]}
    assert (await checkout.admin.call("POST", "/admin/v1/audit/repair", body)).status == 422
