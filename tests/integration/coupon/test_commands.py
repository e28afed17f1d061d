"""The promises to the order service about coupons: one order per coupon, repeats, fences, the database's clock."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY

from tests.infrastructure.replicas import in_some_order, replicas
from tests.infrastructure.services import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = "ann"


async def give(client: Client, **fields: Any) -> str:
    new = {"user_id": USER, "kind": "fixed", "value": 300, **fields}
    return str((await client.post("/v1/coupons", new))["coupon_id"])


def reserve(order: str, coupon: str, subtotal: int = 1000, user: str = USER) -> dict[str, Any]:
    fields = {"order_id": order, "coupon_id": coupon, "user_id": user, "subtotal_amount": subtotal}
    return {"type": "reserve_coupon", **fields}


def redeem(
    order: str, coupon: str, *, reserved: bool = False, user: str = USER, subtotal: int = 1000
) -> dict[str, Any]:
    return {**reserve(order, coupon, subtotal, user), "type": "redeem_coupon", "reserved": reserved}


def release(order: str) -> dict[str, Any]:
    return {"type": "release_coupon", "order_id": order}


def order_id() -> str:
    return str(uuid4())


async def state(client: Client, coupon: str) -> tuple[str, str | None, int | None]:
    read = await client.get(f"/v1/coupons/{coupon}")
    return read["status"], read.get("order_id"), read.get("discount_amount")


def winners(commands: Sequence[Any], outcomes: Sequence[Any]) -> set[str]:
    """Return the orders whose commands were applied."""
    pairs = zip(commands, outcomes, strict=False)  # repeats follow the commands
    return {command["order_id"] for command, outcome in pairs if outcome["outcome"] == "applied"}


async def test_a_coupon_is_reserved_then_redeemed_then_released(coupon: Client) -> None:
    given, order = await give(coupon), order_id()
    applied = [{"outcome": "applied", "result": {"discount_amount": 300}}]
    assert await coupon.command(reserve(order, given)) == applied
    assert await state(coupon, given) == ("RESERVED", order, 300)
    assert await coupon.command(redeem(order, given, reserved=True)) == applied
    assert await state(coupon, given) == ("REDEEMED", order, 300)
    assert await coupon.command(release(order)) == [{"outcome": "applied", "result": {}}]
    assert await state(coupon, given) == ("AVAILABLE", None, None)


async def test_each_refusal_has_its_reason_and_leaves_no_trace(coupon: Client) -> None:
    reserved, redeemed, other = await give(coupon), await give(coupon), order_id()
    await coupon.command(reserve(order_id(), reserved), redeem(order_id(), redeemed))
    expired = await give(coupon, expires_at="2020-01-01T00:00:00Z")
    dear = await give(coupon, min_subtotal=1001)
    theirs = await give(coupon, user_id="bob")
    wanted = {
        "nowhere": "not-found",
        theirs: "not-owner",
        expired: "expired",
        redeemed: "already-used",
        reserved: "reserved",
        dear: "below-minimum",
    }
    before = await coupon.all_items("/v1/coupons", limit=100)
    outcomes = await coupon.command(*(redeem(order_id(), name) for name in wanted))
    assert [outcome["problem"]["reason"] for outcome in outcomes] == list(wanted.values())
    assert {outcome["problem"]["type"] for outcome in outcomes} == {"/problems/invalid-coupon"}
    assert await coupon.all_items("/v1/coupons", limit=100) == before
    assert other not in str(before)


async def test_a_reserved_coupon_is_redeemed_though_it_expires_meanwhile(coupon: Client, database_url: str) -> None:
    given, order = await give(coupon, expires_at="2099-01-01T00:00:00Z"), order_id()
    await coupon.command(reserve(order, given))
    db = await asyncpg.connect(database_url)
    try:
        await db.execute("UPDATE coupons.coupons SET expires_at = now() WHERE coupon_id = $1", given)
    finally:
        await db.close()
    (outcome,) = await coupon.command(redeem(order, given, reserved=True))
    assert outcome["outcome"] == "applied"
    await coupon.command(release(order))
    (outcome,) = await coupon.command(redeem(order_id(), given))
    assert outcome["problem"]["reason"] == "expired"


async def test_a_repeated_batch_gets_identical_outcomes_and_changes_nothing(coupon: Client) -> None:
    first, second = await give(coupon), await give(coupon)
    batch = [redeem(order_id(), first), redeem(order_id(), first), reserve(order_id(), second)]
    outcomes = await coupon.command(*batch)
    assert [outcome["outcome"] for outcome in outcomes] == ["applied", "refused", "applied"]
    states = [await state(coupon, first), await state(coupon, second)]
    assert await coupon.command(*batch) == outcomes
    assert [await state(coupon, first), await state(coupon, second)] == states


async def test_a_late_command_after_its_undo_is_fenced(coupon: Client) -> None:
    given, order = await give(coupon), order_id()
    await coupon.command(release(order))
    late = await coupon.command(reserve(order, given), redeem(order, given), redeem(order, given, reserved=True))
    assert {outcome["problem"]["type"] for outcome in late} == {"/problems/fenced"}
    assert await state(coupon, given) == ("AVAILABLE", None, None)


async def test_holds_are_the_coupons_that_orders_have(coupon: Client) -> None:
    given = [await give(coupon) for _ in range(3)]
    orders = [order_id() for _ in given]
    await coupon.command(
        reserve(orders[0], given[0]), redeem(orders[1], given[1]), reserve(orders[2], given[2]), release(orders[2])
    )
    assert await coupon.holds(*orders) == {orders[0]: {given[0]: "RESERVED"}, orders[1]: {given[1]: "REDEEMED"}}


async def test_of_20_orders_with_one_coupon_one_wins(coupon: Client) -> None:
    given = await give(coupon)
    outcomes = await asyncio.gather(*(coupon.command(redeem(order_id(), given)) for _ in range(20)))
    assert Counter(outcome["outcome"] for (outcome,) in outcomes) == {"applied": 1, "refused": 19}
    assert {outcome["problem"]["reason"] for (outcome,) in outcomes if "problem" in outcome} == {"already-used"}


async def test_replicas_that_work_on_crossing_coupons_neither_deadlock_nor_lose_an_update(
    coupon: Client, database_url: str
) -> None:
    given = [await give(coupon) for _ in range(8)]
    rng = random.Random(7)
    reserves = [reserve(order_id(), rng.choice(given)) for _ in range(40)]
    released = {command["order_id"] for command in reserves[::2]}
    late = [redeem(order_id(), rng.choice(given)) for _ in range(40)]
    splits = REGISTRY.get_sample_value("batches_split_total")
    async with replicas("coupon", database_url) as running:
        # Every replica gets every command three times, in a different order.
        answers = await asyncio.gather(
            *(in_some_order(replica.command, reserves * 3, n) for n, replica in enumerate(running))
        )
        assert all(answer == answers[0] for answer in answers)
        first = winners(reserves, answers[0])
        work = [*map(release, released), *late]
        answers = await asyncio.gather(*(in_some_order(replica.command, work, n) for n, replica in enumerate(running)))
        assert all(answer == answers[0] for answer in answers)
        second = winners(late, answers[0][-len(late) :])
    assert REGISTRY.get_sample_value("batches_split_total") == splits, "a deadlock would have split a batch"
    assert len(first) == 8
    held = {order: status for status, order, _ in [await state(coupon, name) for name in given] if order}
    assert held == {**dict.fromkeys(first - released, "RESERVED"), **dict.fromkeys(second, "REDEEMED")}
