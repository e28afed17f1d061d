"""Operators' acts on sagas over their API: guarded, recorded, and with balanced books afterwards."""

import asyncio

import aiohttp
import pytest

from services.order.saga import STEPS, Kind, Step
from tests.infrastructure.books import violations
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.proxy import Mode
from tests.infrastructure.waiting import eventually
from tests.integration.order_admin.operators import (
    Case,
    a_case,
    act,
    applied,
    blocked,
    client_of,
    go_on,
    holds_of,
    place,
    placed,
    repeat,
    saga_of,
    untouched,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

POINTS = [
    pytest.param(kind, step, mode, id=f"{kind}-{step.do}-{'sent' if mode is Mode.DEAF else 'unsent'}")
    for kind, steps in STEPS.items()
    for step in steps
    for mode in (Mode.CLOSED, Mode.DEAF)
]


@pytest.mark.parametrize(("kind", "step", "mode"), POINTS)
async def test_saga_forced_at_any_point_is_undone_and_published(
    checkout: Checkout, kind: Kind, step: Step, mode: Mode
) -> None:
    case = await placed(checkout, "later") if kind is Kind.PAY else await a_case(checkout)
    async with blocked(checkout, step.participant, mode):
        if kind is Kind.PAY:
            case = await go_on(checkout, case, "payment")
        else:
            case = await place(checkout, case, "now" if kind is Kind.PLACE_NOW else "later")
        if mode is Mode.DEAF:
            await applied(checkout, case, step.participant, step.do)
        saga = await saga_of(checkout, case)
        assert (saga["kind"], saga["status"]) == (kind, "RUNNING")
        assert saga["remaining"] == [step.do for step in STEPS[kind]]
        done = await act(checkout, f"sagas/{saga['saga_id']}/force")
        assert done == {"sagas": [saga["saga_id"]], "dry_run": False}
    await checkout.until_idle()
    saga = await saga_of(checkout, case)
    assert (saga["status"], saga["remaining"]) == ("COMPENSATED", [])
    order = await checkout.shop.order.get(f"/v1/orders/{case.order_id}")
    assert order["status"] == ("CANCELLED" if kind is Kind.PAY else "REJECTED")
    assert await untouched(checkout, case)
    assert await violations(checkout.database.url) == []
    answer = await repeat(checkout, case)
    assert (answer.status, answer.problem) == (409, "undone-by-operator")
    assert "a test" in answer.body["detail"]


async def test_an_act_that_the_saga_s_state_forbids_is_refused_and_not_recorded(checkout: Checkout) -> None:
    ended = await placed(checkout, "now")
    async with blocked(checkout, "product"):
        closing = await go_on(checkout, await placed_paid(checkout), "cancel")
        running = await place(checkout, await a_case(checkout), "now")
        before = (await checkout.admin.get("/admin/v1/acts"))["items"]
        for case, name in [(closing, "force"), (running, "resolve"), (ended, "retry"), (ended, "force")]:
            for dry_run in (True, False):
                body = {"actor": "sue", "reason": "no", "dry_run": dry_run}
                answer = await checkout.admin.call("POST", f"/admin/v1/sagas/{case.order_id}/{name}", body)
                assert (answer.status, answer.problem) == (409, "saga-not-in-state"), (name, dry_run)
        assert (await checkout.admin.get("/admin/v1/acts"))["items"] == before
    await checkout.until_idle()
    nothing = await checkout.admin.call("GET", "/admin/v1/sagas/00000000-0000-7000-8000-000000000000")
    assert (nothing.status, nothing.problem) == (404, "saga-not-found")


async def placed_paid(checkout: Checkout) -> Case:
    """Place and pay an order; a block of a participant is lifted for it."""
    way = checkout.ways["product"]
    way.set(Mode.OPEN)
    case = await placed(checkout, "now")
    way.set(Mode.CLOSED)
    return case


async def test_dry_run_prints_the_changes_and_makes_none(checkout: Checkout) -> None:
    async with blocked(checkout, "coupon"):
        case = await place(checkout, await a_case(checkout), "now")
        saga = await saga_of(checkout, case)
        for path in (f"sagas/{saga['saga_id']}/force", f"sagas/{saga['saga_id']}/retry", "sagas/retry"):
            done = await act(checkout, path, dry_run=True)
            assert done == {"sagas": [saga["saga_id"]], "dry_run": True}
        assert (await saga_of(checkout, case))["status"] == "RUNNING"
        assert case.order_id not in {one["order_id"] for one in (await checkout.admin.get("/admin/v1/acts"))["items"]}
    await checkout.until_idle()
    assert (await checkout.shop.order.get(f"/v1/orders/{case.order_id}"))["status"] == "PAID"


async def test_each_act_is_recorded_with_operator_and_reason(checkout: Checkout) -> None:
    async with blocked(checkout, "coupon"):
        case = await place(checkout, await a_case(checkout), "now")
        saga_id = (await saga_of(checkout, case))["saga_id"]
        await act(checkout, f"sagas/{case.order_id}/retry", actor="ann", reason="a customer called")
        await act(checkout, "sagas/retry", actor="bob", reason="the coupon service is back")
        await act(checkout, f"sagas/{case.order_id}/force", actor="eve", reason="the customer hung up")
    await checkout.until_idle()
    acts = (await checkout.admin.get("/admin/v1/acts"))["items"][:3]
    assert [(one["act"], one["actor"], one["reason"]) for one in acts] == [
        ("force", "eve", "the customer hung up"),
        ("retry", "bob", "the coupon service is back"),
        ("retry", "ann", "a customer called"),
    ]
    assert {(one["order_id"], one["saga_id"]) for one in acts} == {(case.order_id, saga_id)}


async def test_act_without_operator_or_reason_is_refused(checkout: Checkout) -> None:
    path = "/admin/v1/sagas/00000000-0000-7000-8000-000000000000/force"
    for body in ({"actor": "sue"}, {"reason": "x"}, {"actor": "", "reason": "x"}, {"actor": "sue", "reason": ""}):
        answer = await checkout.admin.call("POST", path, body)
        assert (answer.status, answer.problem) == (422, "validation-failed")


@pytest.mark.parametrize("seconds", ["inf", "nan", "1_0", "+1", "-1", "1e300", ".5"])
async def test_an_age_that_is_no_number_is_refused(checkout: Checkout, seconds: str) -> None:
    answer = await checkout.admin.call("GET", "/admin/v1/sagas", params={"older_than_seconds": seconds})
    assert (answer.status, answer.problem) == (422, "validation-failed")


async def test_live_sagas_are_listed_by_state_and_age_oldest_first(checkout: Checkout) -> None:
    paid = await placed(checkout, "now")
    async with blocked(checkout, "coupon"):
        running = await place(checkout, await a_case(checkout), "now")
        closing = await go_on(checkout, paid, "cancel")

        async def listed(**query: object) -> list[str]:
            items = (await checkout.admin.get("/admin/v1/sagas", **query))["items"]
            return [item["order_id"] for item in items]

        assert await listed() == [running.order_id, closing.order_id]
        assert await listed(state="RUNNING") == [running.order_id]
        assert await listed(state="COMPENSATING") == [closing.order_id]
        assert await listed(older_than_seconds=3600) == []
        shown = await saga_of(checkout, closing)
        assert (shown["target"], shown["remaining"]) == ("REFUNDED", ["refund", "release_coupon", "restore_stock"])
        steps = [item["step"] for item in shown["timeline"]]
        assert steps[:2] == ["place_now", "hold_stock"]
    await checkout.until_idle()


async def test_stuck_saga_is_flagged_and_ends_once_its_undo_succeeds(checkout: Checkout) -> None:
    paid = await placed(checkout, "now")
    async with blocked(checkout, "product"):
        case = await go_on(checkout, paid, "cancel")

        async def stuck() -> bool:
            items = (await checkout.admin.get("/admin/v1/sagas", state="stuck"))["items"]
            return [item["order_id"] for item in items] == [case.order_id]

        await eventually(stuck, 20, "the flag")
        assert await holds_of(checkout, case) == {"product": {case.product: 1}}, "the other undos ran"
        saga = await saga_of(checkout, case)
        assert (saga["status"], saga["timeline"][-1]["outcome"]) == ("COMPENSATING", "stuck")
        await eventually(lambda: metric(checkout, "sagas_stuck 1.0"), 5, "the metric")
    await checkout.until_idle(10)
    assert (await checkout.shop.order.get(f"/v1/orders/{case.order_id}"))["status"] == "REFUNDED"
    assert await untouched(checkout, case)
    assert (await checkout.admin.get("/admin/v1/sagas", state="stuck"))["items"] == []
    await eventually(lambda: metric(checkout, "sagas_stuck 0.0"), 5, "the metric")
    assert await violations(checkout.database.url) == []


async def metric(checkout: Checkout, line: str) -> bool:
    """Return whether the order service's metrics have this line."""
    async with aiohttp.ClientSession() as session, session.get(f"{checkout.shop.order.url}/metrics") as response:
        return line in (await response.text()).splitlines()


async def test_a_saga_resolved_by_hand_ends_with_its_event_and_its_key_s_answer(checkout: Checkout) -> None:
    paid = await placed(checkout, "now")
    async with blocked(checkout, "product"):
        case = await go_on(checkout, paid, "cancel")
        # The correction that an operator makes by other means before `resolve`.
        await checkout.shop.product.command({"type": "restore_stock", "order_id": case.order_id, "attempt": 0})
        for participant, undo in (("balance", "refund"), ("coupon", "release_coupon")):
            await applied(checkout, case, participant, undo)
        await act(checkout, f"sagas/{case.order_id}/resolve", reason="counted the shelf")
        answer = await repeat(checkout, case)
        assert (answer.status, answer.body["status"]) == (200, "REFUNDED")
    saga = await saga_of(checkout, case)
    by_hand = {"step": "resolve", "outcome": "by hand", "detail": "counted the shelf"}
    assert by_hand.items() <= next(item for item in saga["timeline"] if item["step"] == "resolve").items()
    assert await untouched(checkout, case)
    assert await violations(checkout.database.url) == []


async def test_a_placement_resolved_by_hand_is_rejected(checkout: Checkout) -> None:
    async with blocked(checkout, "product", Mode.DEAF):
        case = await place(checkout, await a_case(checkout), "now")
        await applied(checkout, case, "product", "hold_stock")
        await act(checkout, f"sagas/{case.order_id}/force")
        for name, undo in (("product", "restore_stock"), ("coupon", "release_coupon"), ("balance", "refund")):
            await client_of(checkout, name).command({"type": undo, "order_id": case.order_id, "attempt": 0})
        await act(checkout, f"sagas/{case.order_id}/resolve")
        assert (await saga_of(checkout, case))["status"] == "COMPENSATED"
    assert (await repeat(checkout, case)).problem == "undone-by-operator"
    assert await untouched(checkout, case)
    assert await violations(checkout.database.url) == []


async def test_two_concurrent_force_commands_force_the_saga_once(checkout: Checkout) -> None:
    async with blocked(checkout, "coupon"):
        case = await place(checkout, await a_case(checkout), "now")
        body = {"actor": "sue", "reason": "twice"}
        path = f"/admin/v1/sagas/{case.order_id}/force"
        answers = await asyncio.gather(*(checkout.admin.call("POST", path, body) for _ in range(5)))
        assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]
    await checkout.until_idle()
    assert await untouched(checkout, case)


async def test_operators_are_served_on_their_own_port_only(checkout: Checkout) -> None:
    for path in ("/admin/v1/sagas", "/admin/v1/acts", "/admin/v1/drain-status", "/admin/v1/leases"):
        assert (await checkout.shop.order.call("GET", path)).status == 404
        assert (await checkout.admin.call("GET", path)).status == 200
    assert (await checkout.shop.order.call("POST", "/admin/v1/audit", {})).status == 404
    assert (await checkout.admin.call("GET", "/v1/orders")).status == 404
    paths = set((await checkout.shop.order.get("/openapi.json"))["paths"])
    assert not [path for path in paths if "admin" in path]
