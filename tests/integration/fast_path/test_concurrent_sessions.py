"""A participant's one-statement path is correct while other sessions change the same rows."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from services.balance.api import _charge
from services.balance.domain import Debit, UserId
from services.balance.domain import OrderId as BalanceOrder
from services.coupon import store as coupon_store
from services.coupon.domain import Coupon, CouponId, RedeemCoupon
from services.coupon.domain import OrderId as CouponOrder
from services.coupon.domain import UserId as CouponUser
from services.product import store as product_store
from services.product.domain import RestoreStock
from shared.ids import uuid7
from shared.participant.protocol import Outcome
from tests.infrastructure.waiting import eventually
from tests.integration.fast_path.participants import ParticipantUnderTest, hold

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def run_while_locked(
    participant: ParticipantUnderTest, others: Callable[[Any], Awaitable[Any]], commands: Sequence[Any]
) -> list[Outcome | None]:
    """Run commands while another session has a transaction open; it commits once they wait for it."""
    async with participant.other_session.transaction() as db:

        async def somebody_waits() -> bool:
            waiting: bool = await db.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock')"
            )
            return waiting

        await others(db)
        running = asyncio.create_task(participant.executor.run(commands))
        await eventually(somebody_waits, 10, "a session that waits for the other's lock")
    return await running


@pytest.mark.parametrize(
    ("delta", "outcomes", "left"), [(5, [True, True], 9), (-5, [False, False], 5), (-4, [True, False], 0)], ids=str
)
async def test_hold_uses_the_stock_that_another_session_just_committed(
    product: ParticipantUnderTest, delta: int, outcomes: list[bool], left: int
) -> None:
    example = f"moved-{delta}"
    async with product.session.transaction() as db:
        await product_store.create_product(db, example, "Kettle", 100, 10)
    holds = [hold(example, 6 if delta < 0 else 3) for _ in range(2)]
    answers = await run_while_locked(product, lambda db: product_store.move_stock(db, example, delta), holds)
    assert [outcome.applied for outcome in answers if outcome] == outcomes
    async with product.session.transaction() as db:
        assert await db.fetchval("SELECT stock FROM products.products WHERE product_id = $1", example) == left


async def test_hold_reports_the_price_that_another_session_just_committed(
    product: ParticipantUnderTest,
) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "repriced", "Kettle", 100, 10)
    (answer,) = await run_while_locked(
        product, lambda db: product_store.change_product(db, "repriced", "Pot", 7), [hold("repriced", 1)]
    )
    assert answer is not None
    assert answer.body["lines"] == [{"product_id": "repriced", "name": "Pot", "quantity": 1, "unit_price": 7}]


async def test_order_that_another_session_undoes_concurrently_is_fenced(product: ParticipantUnderTest) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "fenced", "Kettle", 100, 10)
    late, other = hold("fenced", 1), hold("fenced", 2)

    async def undo(db: Any) -> None:
        await product.batch.execute(db, [RestoreStock(late.gate)])

    answers = await run_while_locked(product, undo, [late, other])
    assert [outcome.applied for outcome in answers if outcome] == [False, True]
    assert answers[0] is not None
    assert answers[0].body["type"] == "/problems/fenced"
    async with product.session.transaction() as db:
        assert await db.fetchval("SELECT stock FROM products.products WHERE product_id = 'fenced'") == 8


async def test_command_that_another_session_runs_concurrently_is_applied_once(product: ParticipantUnderTest) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "twice", "Kettle", 100, 10)
    same = hold("twice", 4)
    first: list[Any] = []

    async def run(db: Any) -> None:
        first.append((await product.batch.fast_path(db, [same]))[same.gate])

    answers = await run_while_locked(product, run, [same])
    assert [outcome.applied for outcome in answers if outcome] == [True]
    async with product.session.transaction() as db:
        assert await db.fetchval("SELECT stock FROM products.products WHERE product_id = 'twice'") == 6


@pytest.mark.parametrize(("amount", "balances"), [(50, [90, 30]), (0, [40]), (-60, [])], ids=str)
async def test_debit_uses_the_balance_that_another_session_just_committed(
    balance: ParticipantUnderTest, amount: int, balances: list[int]
) -> None:
    user = UserId(f"changed-{amount}")
    async with balance.session.transaction() as db:
        await _charge(db, user, 100, None)
    debits = [Debit(BalanceOrder(uuid7()), 0, user, 60) for _ in range(2)]

    async def change(db: Any) -> None:
        if amount > 0:
            await _charge(db, user, amount, None)
        elif amount < 0:
            await balance.batch.fast_path(db, [Debit(BalanceOrder(uuid7()), 0, user, -amount)])
        else:
            await db.execute("SELECT FROM balances.accounts WHERE user_id = $1 FOR UPDATE", user)

    answers = await run_while_locked(balance, change, debits)
    assert [outcome.body["balance"] for outcome in answers if outcome and outcome.applied] == balances
    async with balance.session.transaction() as db:
        numbers = await db.fetch(
            "SELECT number, balance_after FROM balances.entries WHERE user_id = $1 ORDER BY number", user
        )
        account = await db.fetchrow("SELECT balance, entry_count FROM balances.accounts WHERE user_id = $1", user)
    assert [row["number"] for row in numbers] == list(range(1, len(numbers) + 1))
    assert account is not None
    assert tuple(account) == (numbers[-1]["balance_after"], len(numbers))


async def test_coupon_that_another_session_uses_concurrently_is_refused(coupon: ParticipantUnderTest) -> None:
    user = CouponUser("ann")
    async with coupon.session.transaction() as db:
        for number in range(2):
            await coupon_store.create_coupon(db, Coupon(CouponId(f"c{number}"), user, "fixed", 1, None, 0, None))
    uses = [RedeemCoupon(CouponOrder(uuid7()), CouponId(f"c{number}"), user, 100) for number in range(2)]

    async def use(db: Any) -> None:
        await coupon.batch.fast_path(db, [RedeemCoupon(CouponOrder(uuid7()), CouponId("c0"), user, 100)])

    answers = await run_while_locked(coupon, use, uses)
    assert [outcome.applied for outcome in answers if outcome] == [False, True]
