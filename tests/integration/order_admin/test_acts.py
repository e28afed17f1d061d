"""What operators do to sagas, over their API: guarded, recorded, and leaving books that add up."""

import asyncio

import aiohttp
import pytest

from services.order.saga import STEPS, Kind, Step
from tests.infrastructure.checkout import World
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
from tests.system.books import violations

pytestmark = pytest.mark.asyncio(loop_scope="module")

POINTS = [
    pytest.param(kind, step, mode, id=f"{kind}-{step.do}-{'sent' if mode is Mode.DEAF else 'unsent'}")
    for kind, steps in STEPS.items()
    for step in steps
    for mode in (Mode.CLOSED, Mode.DEAF)
]


@pytest.mark.parametrize(("kind", "step", "mode"), POINTS)
async def test_saga_forced_at_any_point_is_undone_and_published(
    world: World, kind: Kind, step: Step, mode: Mode
) -> None:
    case = await placed(world, "later") if kind is Kind.PAY else await a_case(world)
    async with blocked(world, step.participant, mode):
        if kind is Kind.PAY:
            case = await go_on(world, case, "payment")
        else:
            case = await place(world, case, "now" if kind is Kind.PLACE_NOW else "later")
        if mode is Mode.DEAF:
            await applied(world, case, step.participant, step.do)
        saga = await saga_of(world, case)
        assert (saga["kind"], saga["status"]) == (kind, "RUNNING")
        assert saga["remaining"] == [step.do for step in STEPS[kind]]
        done = await act(world, f"sagas/{saga['saga_id']}/force")
        assert done == {"sagas": [saga["saga_id"]], "dry_run": False}
    await world.settled()
    saga = await saga_of(world, case)
    assert (saga["status"], saga["remaining"]) == ("COMPENSATED", [])
    order = await world.shop.order.get(f"/v1/orders/{case.order_id}")
    assert order["status"] == ("CANCELLED" if kind is Kind.PAY else "REJECTED")
    assert await untouched(world, case)
    assert await violations(world.database.url) == []
    answer = await repeat(world, case)
    assert (answer.status, answer.problem) == (409, "undone-by-operator")
    assert "a test" in answer.body["detail"]


async def test_an_act_that_the_saga_s_state_forbids_is_refused_and_not_recorded(world: World) -> None:
    ended = await placed(world, "now")
    async with blocked(world, "product"):
        closing = await go_on(world, await placed_paid(world), "cancel")
        running = await place(world, await a_case(world), "now")
        before = (await world.admin.get("/admin/v1/acts"))["items"]
        for case, name in [(closing, "force"), (running, "resolve"), (ended, "retry"), (ended, "force")]:
            for dry_run in (True, False):
                body = {"actor": "sue", "reason": "no", "dry_run": dry_run}
                answer = await world.admin.call("POST", f"/admin/v1/sagas/{case.order_id}/{name}", body)
                assert (answer.status, answer.problem) == (409, "saga-not-in-state"), (name, dry_run)
        assert (await world.admin.get("/admin/v1/acts"))["items"] == before
    await world.settled()
    nothing = await world.admin.call("GET", "/admin/v1/sagas/00000000-0000-7000-8000-000000000000")
    assert (nothing.status, nothing.problem) == (404, "saga-not-found")


async def placed_paid(world: World) -> Case:
    """A paid order, placed round a blocked way: the block is lifted for it."""
    way = world.ways["product"]
    way.set(Mode.OPEN)
    case = await placed(world, "now")
    way.set(Mode.CLOSED)
    return case


async def test_a_dry_run_says_what_it_would_do_and_does_nothing(world: World) -> None:
    async with blocked(world, "coupon"):
        case = await place(world, await a_case(world), "now")
        saga = await saga_of(world, case)
        for path in (f"sagas/{saga['saga_id']}/force", f"sagas/{saga['saga_id']}/retry", "sagas/retry"):
            done = await act(world, path, dry_run=True)
            assert done == {"sagas": [saga["saga_id"]], "dry_run": True}
        assert (await saga_of(world, case))["status"] == "RUNNING"
        assert case.order_id not in {one["order_id"] for one in (await world.admin.get("/admin/v1/acts"))["items"]}
    await world.settled()
    assert (await world.shop.order.get(f"/v1/orders/{case.order_id}"))["status"] == "PAID"


async def test_each_act_is_recorded_with_who_and_why(world: World) -> None:
    async with blocked(world, "coupon"):
        case = await place(world, await a_case(world), "now")
        saga_id = (await saga_of(world, case))["saga_id"]
        await act(world, f"sagas/{case.order_id}/retry", actor="ann", reason="a customer called")
        await act(world, "sagas/retry", actor="bob", reason="the coupon service is back")
        await act(world, f"sagas/{case.order_id}/force", actor="eve", reason="the customer hung up")
    await world.settled()
    acts = (await world.admin.get("/admin/v1/acts"))["items"][:3]
    assert [(one["act"], one["actor"], one["reason"]) for one in acts] == [
        ("force", "eve", "the customer hung up"),
        ("retry", "bob", "the coupon service is back"),
        ("retry", "ann", "a customer called"),
    ]
    assert {(one["order_id"], one["saga_id"]) for one in acts} == {(case.order_id, saga_id)}


async def test_an_act_without_who_or_why_is_refused(world: World) -> None:
    path = "/admin/v1/sagas/00000000-0000-7000-8000-000000000000/force"
    for body in ({"actor": "sue"}, {"reason": "x"}, {"actor": "", "reason": "x"}, {"actor": "sue", "reason": ""}):
        answer = await world.admin.call("POST", path, body)
        assert (answer.status, answer.problem) == (422, "validation-failed")


@pytest.mark.parametrize("seconds", ["inf", "nan", "1_0", "+1", "-1", "1e300", ".5"])
async def test_an_age_that_is_no_number_is_refused(world: World, seconds: str) -> None:
    answer = await world.admin.call("GET", "/admin/v1/sagas", params={"older_than_seconds": seconds})
    assert (answer.status, answer.problem) == (422, "validation-failed")


async def test_live_sagas_are_listed_by_state_and_age_oldest_first(world: World) -> None:
    paid = await placed(world, "now")
    async with blocked(world, "coupon"):
        running = await place(world, await a_case(world), "now")
        closing = await go_on(world, paid, "cancel")

        async def listed(**query: object) -> list[str]:
            items = (await world.admin.get("/admin/v1/sagas", **query))["items"]
            return [item["order_id"] for item in items]

        assert await listed() == [running.order_id, closing.order_id]
        assert await listed(state="RUNNING") == [running.order_id]
        assert await listed(state="COMPENSATING") == [closing.order_id]
        assert await listed(older_than_seconds=3600) == []
        shown = await saga_of(world, closing)
        assert (shown["target"], shown["remaining"]) == ("REFUNDED", ["refund", "release_coupon", "restore_stock"])
        steps = [item["step"] for item in shown["timeline"]]
        assert steps[:2] == ["place_now", "hold_stock"]
    await world.settled()


async def test_stuck_saga_is_flagged_and_ends_once_its_undo_succeeds(world: World) -> None:
    paid = await placed(world, "now")
    async with blocked(world, "product"):
        case = await go_on(world, paid, "cancel")

        async def stuck() -> bool:
            items = (await world.admin.get("/admin/v1/sagas", state="stuck"))["items"]
            return [item["order_id"] for item in items] == [case.order_id]

        await eventually(stuck, 20, "the flag")
        assert await holds_of(world, case) == {"product": {case.product: 1}}, "the other undos ran"
        saga = await saga_of(world, case)
        assert (saga["status"], saga["timeline"][-1]["outcome"]) == ("COMPENSATING", "stuck")
        await eventually(lambda: metric(world, "sagas_stuck 1.0"), 5, "the metric")
    await world.settled(10)
    assert (await world.shop.order.get(f"/v1/orders/{case.order_id}"))["status"] == "REFUNDED"
    assert await untouched(world, case)
    assert (await world.admin.get("/admin/v1/sagas", state="stuck"))["items"] == []
    await eventually(lambda: metric(world, "sagas_stuck 0.0"), 5, "the metric")
    assert await violations(world.database.url) == []


async def metric(world: World, line: str) -> bool:
    """Whether the order service tells this line among its metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{world.shop.order.url}/metrics") as response:
        return line in (await response.text()).splitlines()


async def test_a_saga_resolved_by_hand_ends_with_its_event_and_its_key_s_answer(world: World) -> None:
    paid = await placed(world, "now")
    async with blocked(world, "product"):
        case = await go_on(world, paid, "cancel")
        # What an operator puts right outside before resolving.
        await world.shop.product.command({"type": "restore_stock", "order_id": case.order_id, "attempt": 0})
        for participant, undo in (("balance", "refund"), ("coupon", "release_coupon")):
            await applied(world, case, participant, undo)
        await act(world, f"sagas/{case.order_id}/resolve", reason="counted the shelf")
        answer = await repeat(world, case)
        assert (answer.status, answer.body["status"]) == (200, "REFUNDED")
    saga = await saga_of(world, case)
    by_hand = {"step": "resolve", "outcome": "by hand", "detail": "counted the shelf"}
    assert by_hand.items() <= next(item for item in saga["timeline"] if item["step"] == "resolve").items()
    assert await untouched(world, case)
    assert await violations(world.database.url) == []


async def test_a_placement_resolved_by_hand_is_rejected(world: World) -> None:
    async with blocked(world, "product", Mode.DEAF):
        case = await place(world, await a_case(world), "now")
        await applied(world, case, "product", "hold_stock")
        await act(world, f"sagas/{case.order_id}/force")
        for name, undo in (("product", "restore_stock"), ("coupon", "release_coupon"), ("balance", "refund")):
            await client_of(world, name).command({"type": undo, "order_id": case.order_id, "attempt": 0})
        await act(world, f"sagas/{case.order_id}/resolve")
        assert (await saga_of(world, case))["status"] == "COMPENSATED"
    assert (await repeat(world, case)).problem == "undone-by-operator"
    assert await untouched(world, case)
    assert await violations(world.database.url) == []


async def test_two_operators_forcing_at_once_force_the_saga_once(world: World) -> None:
    async with blocked(world, "coupon"):
        case = await place(world, await a_case(world), "now")
        body = {"actor": "sue", "reason": "twice"}
        path = f"/admin/v1/sagas/{case.order_id}/force"
        answers = await asyncio.gather(*(world.admin.call("POST", path, body) for _ in range(5)))
        assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]
    await world.settled()
    assert await untouched(world, case)


async def test_operators_are_served_on_their_own_port_only(world: World) -> None:
    for path in ("/admin/v1/sagas", "/admin/v1/acts", "/admin/v1/drain-status"):
        assert (await world.shop.order.call("GET", path)).status == 404
        assert (await world.admin.call("GET", path)).status == 200
    assert (await world.shop.order.call("POST", "/admin/v1/audit", {})).status == 404
    assert (await world.admin.call("GET", "/v1/orders")).status == 404
    paths = set((await world.shop.order.get("/openapi.json"))["paths"])
    assert not [path for path in paths if "admin" in path]
