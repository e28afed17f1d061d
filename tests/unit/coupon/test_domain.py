"""The rules of coupons: which user may use one, the discount, single use, and permanent undos."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.coupon.domain import (
    Batch,
    Command,
    Coupon,
    CouponId,
    OrderId,
    RedeemCoupon,
    ReleaseCoupon,
    ReserveCoupon,
    UserId,
)
from shared.participant.protocol import FENCED, Outcome
from tests.unit.protocol import ORDERS, Protocol, assert_repeats_are_answered_alike

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ORDER, OTHER, THIRD = (OrderId(order) for order in ORDERS)
COUPON, UNKNOWN = CouponId("c1"), CouponId("unknown")
OWNER, STRANGER = UserId("owner"), UserId("stranger")
PLAIN = Coupon(COUPON, OWNER, "fixed", 500, None, 0, None)


@dataclass
class World:
    """The tables in memory; `run` loads and writes like services/coupon/batch.py."""

    coupons: dict[CouponId, Coupon]
    protocol: Protocol = field(default_factory=Protocol)

    @classmethod
    def of(cls, *coupons: Coupon) -> "World":
        return cls({coupon.coupon_id: coupon for coupon in coupons})

    def run(self, *commands: Command) -> Sequence[Outcome]:
        orders = {command.gate for command in commands}
        named = {command.coupon_id for command in commands if not isinstance(command, ReleaseCoupon)}
        loaded = {
            coupon.coupon_id: coupon
            for coupon in self.coupons.values()
            if coupon.coupon_id in named or coupon.order_id in orders
        }
        batch = Batch(loaded, NOW)
        outcomes = self.protocol.run(commands, batch)
        for coupon in batch.changed:
            assert self.coupons[coupon.coupon_id] != coupon, "only what changed is written"
            self.coupons[coupon.coupon_id] = coupon
        return outcomes


def reserve(order: OrderId = ORDER, coupon: CouponId = COUPON, user: UserId = OWNER, subtotal: int = 1000) -> Command:
    return ReserveCoupon(order, coupon, user, subtotal)


def redeem(
    order: OrderId = ORDER,
    coupon: CouponId = COUPON,
    user: UserId = OWNER,
    subtotal: int = 1000,
    *,
    reserved: bool = False,
) -> Command:
    return RedeemCoupon(order, coupon, user, subtotal, reserved=reserved)


def reason(outcome: Outcome) -> str:
    assert not outcome.applied
    assert (outcome.body["type"], outcome.body["status"]) == ("/problems/invalid-coupon", 400)
    return str(outcome.body["reason"])


some_coupons = st.builds(
    Coupon,
    coupon_id=st.just(COUPON),
    user_id=st.sampled_from([OWNER, STRANGER]),
    kind=st.sampled_from(["fixed", "percent"]),
    value=st.integers(1, 100),
    max_discount=st.none() | st.integers(1, 50),
    min_subtotal=st.integers(0, 60),
    expires_at=st.none() | st.just(NOW + timedelta(days=1)),
)
worlds = st.lists(some_coupons, min_size=1, max_size=3).map(
    lambda coupons: World.of(*(replace(c, coupon_id=CouponId(f"c{i}")) for i, c in enumerate(coupons)))
)
orders = st.sampled_from([ORDER, OTHER, THIRD])
uses = {
    "gate": orders,
    "coupon_id": st.sampled_from([CouponId("c0"), CouponId("c1"), UNKNOWN]),
    "user_id": st.sampled_from([OWNER, OWNER, STRANGER]),
    "subtotal_amount": st.integers(0, 100),
}
commands = st.one_of(
    st.builds(ReserveCoupon, **uses, attempt=st.just(0)),
    st.builds(RedeemCoupon, **uses, attempt=st.just(0), reserved=st.booleans()),
    st.builds(ReleaseCoupon, gate=orders),
)
batches = st.lists(st.lists(commands, min_size=1, max_size=5), max_size=5)


@given(worlds, batches)
def test_a_coupon_belongs_to_one_order_and_an_order_has_one_coupon(world: World, batches: list[list[Command]]) -> None:
    for batch in batches:
        world.run(*batch)
        taken = [coupon.order_id for coupon in world.coupons.values() if coupon.order_id]
        assert len(set(taken)) == len(taken)
        for coupon in world.coupons.values():
            free = coupon.status == "AVAILABLE"
            assert (coupon.order_id is None, coupon.discount_amount is None) == (free, free)
            assert coupon.order_id not in world.protocol.closed


@given(worlds, batches)
def test_batching_changes_no_outcome(world: World, batches: list[list[Command]]) -> None:
    alone = World(dict(world.coupons))
    for batch in batches:
        assert list(world.run(*batch)) == [alone.run(command)[0] for command in batch]
    assert world.coupons == alone.coupons


@given(worlds, st.lists(commands, min_size=1, max_size=8))
def test_repeated_batch_gets_the_same_answers_and_changes_nothing(world: World, batch: list[Command]) -> None:
    outcomes = world.run(*batch)
    coupons = dict(world.coupons)
    repeated = world.run(*batch)
    assert_repeats_are_answered_alike(batch, outcomes, repeated, world.protocol.closed)
    assert world.coupons == coupons


@given(worlds, batches)
def test_releasing_all_orders_restores_every_coupon(world: World, batches: list[list[Command]]) -> None:
    given_out = dict(world.coupons)
    for batch in batches:
        world.run(*batch)
    world.run(*(ReleaseCoupon(order) for order in (ORDER, OTHER, THIRD)))
    assert world.coupons == given_out


@given(some_coupons, st.integers(0, 2**63 - 1))
def test_no_discount_exceeds_the_subtotal_the_cap_or_the_coupon_s_value(coupon: Coupon, subtotal: int) -> None:
    discount = coupon.discount(subtotal)
    assert 0 <= discount <= subtotal
    assert coupon.max_discount is None or discount <= coupon.max_discount
    assert discount * 100 <= subtotal * coupon.value if coupon.kind == "percent" else discount <= coupon.value


@pytest.mark.parametrize(
    ("coupon", "subtotal", "discount"),
    [
        (PLAIN, 1000, 500),
        (PLAIN, 499, 499),
        (PLAIN, 0, 0),
        (replace(PLAIN, max_discount=300), 1000, 300),
        (replace(PLAIN, kind="percent", value=33), 100, 33),
        (replace(PLAIN, kind="percent", value=33), 299, 98),
        (replace(PLAIN, kind="percent", value=100), 7, 7),
        (replace(PLAIN, kind="percent", value=50, max_discount=20), 100, 20),
        (replace(PLAIN, kind="percent", value=99), 2**63 - 1, (2**63 - 1) * 99 // 100),
    ],
)
def test_a_discount_is_floored_capped_and_never_above_the_subtotal(
    coupon: Coupon, subtotal: int, discount: int
) -> None:
    assert World.of(coupon).run(redeem(subtotal=subtotal))[0].body == {"discount_amount": discount}


def test_reasons_are_listed_in_a_fixed_order() -> None:
    coupon = replace(PLAIN, user_id=STRANGER, expires_at=NOW, min_subtotal=2000)
    coupon = replace(coupon, status="REDEEMED", order_id=OTHER, discount_amount=1)
    mended: list[tuple[str, dict[str, Any]]] = [
        ("not-owner", {"user_id": OWNER}),
        ("expired", {"expires_at": None}),
        ("already-used", {"status": "RESERVED"}),
        ("reserved", {"status": "AVAILABLE", "order_id": None, "discount_amount": None}),
        ("below-minimum", {"min_subtotal": 0}),
    ]
    assert reason(World.of().run(redeem())[0]) == "not-found"
    for expected, change in mended:
        assert reason(World.of(coupon).run(redeem())[0]) == expected
        coupon = replace(coupon, **change)
    assert World.of(coupon).run(redeem())[0].applied


def test_refusal_of_a_too_low_subtotal_names_the_minimum() -> None:
    (outcome,) = World.of(replace(PLAIN, min_subtotal=1001)).run(redeem())
    assert (reason(outcome), outcome.body["min_subtotal"]) == ("below-minimum", 1001)


def test_coupon_is_valid_until_its_expires_at() -> None:
    assert reason(World.of(replace(PLAIN, expires_at=NOW)).run(reserve())[0]) == "expired"
    assert World.of(replace(PLAIN, expires_at=NOW + timedelta(microseconds=1))).run(reserve())[0].applied


def test_reserved_coupon_that_expired_since_is_redeemed_at_its_reserved_discount() -> None:
    world = World.of(PLAIN)
    world.run(reserve(subtotal=400))
    world.coupons[COUPON] = replace(
        world.coupons[COUPON], expires_at=NOW - timedelta(days=1), value=1, min_subtotal=999
    )
    (outcome,) = world.run(redeem(subtotal=900, reserved=True))
    assert outcome == Outcome(True, {"discount_amount": 400})
    assert world.coupons[COUPON].status == "REDEEMED"


@pytest.mark.parametrize("holder", [None, OTHER])
def test_unreserved_coupon_cannot_be_redeemed_as_reserved(holder: OrderId | None) -> None:
    world = World.of(PLAIN)
    if holder:
        world.run(reserve(holder))
    (outcome,) = world.run(redeem(reserved=True))
    assert outcome.body["type"] == "/problems/coupon-not-reserved"


def test_redeemed_coupon_is_not_reserved_any_more_even_by_its_order() -> None:
    world = World.of(replace(PLAIN, status="REDEEMED", order_id=ORDER, discount_amount=500))
    (outcome,) = world.run(redeem(reserved=True))
    assert outcome.body["type"] == "/problems/coupon-not-reserved"


def test_of_two_orders_with_one_coupon_in_one_batch_the_first_gets_it() -> None:
    first, second = World.of(PLAIN).run(redeem(ORDER), redeem(OTHER))
    assert first.applied
    assert reason(second) == "already-used"


def test_a_second_coupon_for_an_order_is_refused() -> None:
    second = CouponId("c2")
    world = World.of(PLAIN, replace(PLAIN, coupon_id=second))
    world.run(reserve())
    (outcome,) = world.run(redeem(coupon=second))
    assert outcome.body["type"] == "/problems/order-has-coupon"


@pytest.mark.parametrize("use", [reserve, redeem])
def test_a_released_coupon_can_be_used_by_another_order(use: object) -> None:
    world = World.of(PLAIN)
    world.run(reserve() if use is reserve else redeem())
    released, used = world.run(ReleaseCoupon(ORDER), redeem(OTHER))
    assert released.applied
    assert used.applied
    assert world.coupons[COUPON].order_id == OTHER


def test_release_does_not_change_another_order_s_coupon() -> None:
    world = World.of(PLAIN)
    world.run(redeem(OTHER))
    assert world.run(ReleaseCoupon(ORDER))[0].applied
    assert world.coupons[COUPON].order_id == OTHER


def test_a_release_closes_both_reserving_and_redeeming() -> None:
    world = World.of(PLAIN)
    world.run(ReleaseCoupon(ORDER))
    assert world.run(reserve(), redeem(), redeem(reserved=True)) == [FENCED] * 3
    assert world.coupons[COUPON] == PLAIN
