"""A participant's one-statement path has the same outcomes and rows as its pure rules."""

from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.balance.api import _charge
from services.balance.domain import Debit, Refund, UserId
from services.balance.domain import OrderId as BalanceOrder
from services.coupon import store as coupon_store
from services.coupon.domain import Coupon, CouponId, RedeemCoupon, ReleaseCoupon, ReserveCoupon
from services.coupon.domain import OrderId as CouponOrder
from services.coupon.domain import UserId as CouponUser
from services.product import store as product_store
from services.product.domain import HoldStock, OrderId, ProductId, RestoreStock
from shared.ids import uuid7
from shared.participant.executor import CommandExecutor
from tests.integration.fast_path.participants import ParticipantUnderTest

pytestmark = pytest.mark.asyncio(loop_scope="module")

_examples = count()

# The possible commands: each is a choice of small numbers, which become ids of this example.

orders = st.integers(0, 9)
COMMANDS: dict[str, st.SearchStrategy[Any]] = {
    "product": st.tuples(
        st.sampled_from(["do", "do", "do", "undo"]),
        orders,
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=3, unique_by=lambda line: line[0]
        ),
    ),
    "coupon": st.tuples(
        st.sampled_from(["reserve", "redeem", "redeem", "redeem reserved", "undo"]),
        orders,
        st.integers(0, 5),
        st.integers(0, 1),
        st.sampled_from([0, 99, 1001, 2**63 - 1]),
    ),
    "balance": st.tuples(
        st.sampled_from(["do", "do", "do", "undo"]),
        orders,
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from([0, 1, 40, 100, 2**63 - 1]),
    ),
}


def command(name: str, example: str, ids: Sequence[UUID], chosen: Any) -> Any:
    what, number, *rest = chosen
    if name == "product":
        order = OrderId(ids[number])
        lines = tuple((ProductId(f"{example}-{product}"), quantity) for product, quantity in rest[0])
        return RestoreStock(order) if what == "undo" else HoldStock(order, 0, lines)
    if name == "balance":
        attempt, user, amount = rest
        if what == "undo":
            return Refund(BalanceOrder(ids[number]))
        return Debit(BalanceOrder(ids[number]), attempt, UserId(f"{example}-{user}"), amount)
    coupon_id, user, subtotal = rest
    use = (
        *(CouponOrder(ids[number]), CouponId(f"{example}-{coupon_id}")),
        *(CouponUser(f"{example}-{user}"), subtotal),
    )
    if what == "undo":
        return ReleaseCoupon(CouponOrder(ids[number]))
    return ReserveCoupon(*use) if what == "reserve" else RedeemCoupon(*use, 0, what == "redeem reserved")


async def stock_up(participant: ParticipantUnderTest, example: str) -> None:
    """Insert products, coupons and accounts 0, 1, … of an example, except the last one that commands name."""
    async with participant.session.transaction() as db:
        if participant.name == "product":
            for number, units in enumerate((3, 8, 1000)):
                await product_store.create_product(
                    db, f"{example}-{number}", 'Kettle \u00e9\u2028"', 100 + number, units
                )
        elif participant.name == "balance":
            for number, amount in enumerate((150, 2**63 - 1)):
                await _charge(db, UserId(f"{example}-{number}"), amount, None)
        else:
            user = CouponUser(f"{example}-0")
            coupons = (
                Coupon(CouponId(f"{example}-0"), user, "fixed", 100, None, 0, None),
                Coupon(CouponId(f"{example}-1"), user, "percent", 33, None, 0, None),
                Coupon(CouponId(f"{example}-2"), user, "percent", 50, 20, 0, None),
                Coupon(CouponId(f"{example}-3"), user, "fixed", 5, None, 1000, None),
            )
            for coupon in coupons:
                await coupon_store.create_coupon(db, coupon)
            await db.execute(
                "INSERT INTO coupons.coupons (coupon_id, user_id, kind, value, expires_at)"
                " VALUES ($1, $2, 'fixed', 1, now() - interval '1 second')",
                f"{example}-4",
                user,
            )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_batch_has_the_outcomes_of_the_rules_with_fast_path_commands_first(
    participants: tuple[ParticipantUnderTest, ParticipantUnderTest], data: st.DataObject
) -> None:
    one, other = participants
    example, ids = f"example-{next(_examples)}", [uuid7() for _ in range(10)]
    for participant in participants:
        await stock_up(participant, example)
    batches = data.draw(st.lists(st.lists(COMMANDS[one.name], min_size=1, max_size=8), min_size=1, max_size=4))
    for chosen in batches:
        commands = [command(one.name, example, ids, choice) for choice in chosen]
        applied: set[UUID] = set()

        async def record_applied(db: Any, candidates: Sequence[Any], applied: set[UUID] = applied) -> Any:
            done = await one.batch.fast_path(db, candidates)
            applied.update(done)
            return done

        async with CommandExecutor[Any](one.session, one.batch.execute, record_applied) as executor:
            outcomes = await executor.run(commands)
        fast_path_first = sorted(range(len(commands)), key=lambda index: commands[index].gate not in applied)
        decided = dict(
            zip(fast_path_first, await other.decide([commands[index] for index in fast_path_first]), strict=True)
        )
        assert outcomes == [decided[index] for index in range(len(commands))]
    assert await one.rows() == await other.rows()
