"""Sagas are listed, shown, and acted on: first tried, then confirmed with a reason, then recorded by the service."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.console.pages.sagas import PAGE
from shared.contracts.scopes import Scope
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.proxy import Mode
from tests.integration.console.serving import Answer, Browser, console
from tests.integration.order_admin.operators import (
    Case,
    a_case,
    applied,
    blocked,
    go_on,
    place,
    placed,
    saga_of,
    untouched,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
WHY = {"reason": "the <shelf> & I", "by": "sue"}


@pytest_asyncio.fixture(loop_scope="module")
async def browser(checkout: Checkout) -> AsyncIterator[Browser]:
    url, admin = checkout.shop.order.url, checkout.admin.url
    async with console(order_url=url, order_admin_url=admin, order_replicas=url) as found:
        yield found


async def confirmed(browser: Browser, path: str, page: str, **fields: str) -> Answer:
    """Try an act by the form of a page, and confirm it."""
    tried = await browser.submit(page, path, **WHY, **fields)
    assert tried.status == 200, tried.text
    assert tried.has("<h1>Confirm</h1>", "the &lt;shelf&gt; &amp; I", "sue")
    return await browser.post(path, tried.hidden())


async def paid_order(checkout: Checkout) -> Case:
    """Place an order, and wait until it is paid."""
    case = await placed(checkout, "now")
    await checkout.until_idle()
    return case


async def running(checkout: Checkout) -> Case:
    """Place an order whose saga waits for the product service."""
    case = await place(checkout, await a_case(checkout), "now")
    await applied(checkout, case, "product", "hold_stock")
    return case


async def test_list_shows_live_sagas_by_state_and_age(checkout: Checkout, browser: Browser) -> None:
    paid = await paid_order(checkout)
    async with blocked(checkout, "coupon"):
        first = await place(checkout, await a_case(checkout), "now")
        closing = await go_on(checkout, paid, "cancel")
        assert (await browser.get("/sagas")).has("Sagas: 2", first.order_id, closing.order_id, "Buy now", "Close")
        only = await browser.get("/sagas?state=COMPENSATING")
        assert only.has("Sagas: 1", closing.order_id, '<option value="COMPENSATING" selected>')
        assert first.order_id not in only.text
        assert (await browser.get("/sagas?older=3600")).has("Sagas: 0", "No saga matches")
        assert (await browser.get("/sagas?state=nonsense&older=-1")).has("Sagas: 2")
    await checkout.until_idle()


async def test_saga_shows_its_remaining_commands_and_the_acts_that_are_possible(
    checkout: Checkout, browser: Browser
) -> None:
    paid = await paid_order(checkout)
    async with blocked(checkout, "product"):
        case = await go_on(checkout, paid, "cancel")
        saga_id = (await saga_of(checkout, case))["saga_id"]
        shown = await browser.get(f"/sagas/{case.order_id}")
        assert shown.has(saga_id, "restore_stock", "hold_stock", "REFUNDED", f"/sagas/{saga_id}/resolve")
        assert f"/sagas/{saga_id}/force" not in shown.text
    await checkout.until_idle()
    ended = await browser.get(f"/sagas/{case.order_id}")
    assert ended.has("None: it has ended.")
    assert f"/sagas/{saga_id}/retry" not in ended.text
    made_up = await browser.get(f"/sagas/{case.order_id}?done=nonsense")
    assert made_up.status == 200
    assert "Done and recorded" not in made_up.text


async def test_forced_saga_is_undone_after_a_confirmation_only(checkout: Checkout, browser: Browser) -> None:
    async with blocked(checkout, "product", Mode.DEAF):
        case = await running(checkout)
        saga_id = (await saga_of(checkout, case))["saga_id"]
        path = f"/sagas/{saga_id}/force"
        tried = await browser.submit(path, path, **WHY)
        assert tried.has("<h1>Confirm</h1>", 'class="danger"')
        assert (await saga_of(checkout, case))["status"] == "RUNNING"
        done = await browser.post(path, tried.hidden())
        assert (done.status, done.headers["Location"]) == (303, f"/sagas/{saga_id}?done=force")
        assert (await saga_of(checkout, case))["status"] == "COMPENSATING"
    assert (await browser.get(done.headers["Location"])).has("Done and recorded: Force.")
    await checkout.until_idle()
    assert await untouched(checkout, case)
    act = (await checkout.admin.get("/admin/v1/acts"))["items"][0]
    assert (act["actor"], act["act"], act["reason"]) == ("sue", "force", WHY["reason"])
    assert (await browser.get("/sagas")).has("What operators did", "the &lt;shelf&gt; &amp; I")


async def test_resolved_saga_ends(checkout: Checkout, browser: Browser) -> None:
    paid = await paid_order(checkout)
    async with blocked(checkout, "product"):
        case = await go_on(checkout, paid, "cancel")
        await checkout.shop.product.command({"type": "restore_stock", "order_id": case.order_id, "attempt": 0})
        for participant, undo in (("balance", "refund"), ("coupon", "release_coupon")):
            await applied(checkout, case, participant, undo)
        path = f"/sagas/{(await saga_of(checkout, case))['saga_id']}/resolve"
        assert (await confirmed(browser, path, path)).status == 303
        assert (await saga_of(checkout, case))["status"] == "COMPENSATED"
    assert await untouched(checkout, case)


async def test_act_that_the_state_forbids_is_refused_in_the_trial(checkout: Checkout, browser: Browser) -> None:
    case = await paid_order(checkout)
    path = f"/sagas/{(await saga_of(checkout, case))['saga_id']}/force"
    tried = await browser.submit(path, path, **WHY)
    assert tried.has("None of it is possible now.", "Only a RUNNING saga allows it to force")
    assert 'class="danger"' not in tried.text
    really = await browser.post(path, {**tried.hidden(), "step": "do"})
    assert really.status == 409


@pytest.mark.parametrize("fields", [{"reason": "why"}, {"by": "sue"}, {"reason": " ", "by": "sue"}, {}])
async def test_act_without_reason_or_name_is_asked_again(
    checkout: Checkout, browser: Browser, fields: dict[str, str]
) -> None:
    async with blocked(checkout, "coupon"):
        case = await place(checkout, await a_case(checkout), "now")
        path = f"/sagas/{(await saga_of(checkout, case))['saga_id']}/force"
        for step in ("", "do"):
            answer = await browser.submit(path, path, step=step, **fields)
            assert answer.status == 400
            assert answer.has("Say why, and who you are.", 'role="alert"')
        assert (await saga_of(checkout, case))["status"] == "RUNNING"
    await checkout.until_idle()


async def test_act_without_the_token_of_the_form_is_refused(checkout: Checkout, browser: Browser) -> None:
    async with blocked(checkout, "coupon"):
        case = await place(checkout, await a_case(checkout), "now")
        path = f"/sagas/{(await saga_of(checkout, case))['saga_id']}/force"
        await browser.get(path)
        assert (await browser.post(path, {**WHY, "step": "do"})).status == 403
        foreign = {"Origin": "https://evil.example.net"}
        token = browser.parts.sessions.form_token(browser.jar["console-id"])
        assert (await browser.post(path, {**WHY, "step": "do", "form_token": token}, **foreign)).status == 403
        assert (await saga_of(checkout, case))["status"] == "RUNNING"
    await checkout.until_idle()


async def test_all_sagas_of_a_filter_are_acted_on_after_a_look_at_each(checkout: Checkout, browser: Browser) -> None:
    async with blocked(checkout, "product", Mode.DEAF):
        cases = [await running(checkout) for _ in range(2)]
        ids = [(await saga_of(checkout, case))["saga_id"] for case in cases]
        asked = await browser.submit("/sagas?state=RUNNING", "/sagas/all/force", state="RUNNING", older="0")
        assert asked.has("On up to 2 that match the filter")
        tried = await browser.post("/sagas/all/force", {**asked.hidden(), **WHY})
        assert tried.has(*ids, "Undo 2")
        assert {(await saga_of(checkout, case))["status"] for case in cases} == {"RUNNING"}
        later = await running(checkout)
        done = await browser.post("/sagas/all/force", tried.hidden())
        assert done.has("2 of 2 done and recorded.")
        assert {(await saga_of(checkout, case))["status"] for case in cases} == {"COMPENSATING"}
        assert (await saga_of(checkout, later))["status"] == "RUNNING", "it was not looked at"
    await checkout.until_idle()


async def test_act_on_all_is_nothing_if_none_matches(checkout: Checkout, browser: Browser) -> None:
    await checkout.until_idle()
    answer = await browser.submit("/sagas", "/sagas/all/retry", state="", older="0", **WHY)
    assert answer.has("Nothing matches the filter.")


async def test_name_is_remembered_for_the_next_act(checkout: Checkout, browser: Browser) -> None:
    case = await paid_order(checkout)
    path = f"/sagas/{(await saga_of(checkout, case))['saga_id']}/force"
    for name in ("sue", "김민수; a=b"):
        await browser.submit(path, path, reason="why", by=name)
        assert (await browser.get(path)).has('name="by" required', f'value="{name}"')


async def test_unknown_saga_is_a_page_with_status_404(browser: Browser) -> None:
    answer = await browser.get("/sagas/00000000-0000-7000-8000-000000000000")
    assert answer.status == 404
    assert (await browser.get("/sagas/not-an-id")).status == 404
    assert (await browser.get("/sagas/all/force")).status == 405


async def test_acts_need_the_scope_for_acts() -> None:
    scopes = {(route.method, route.path): route.scope for route in PAGE.routes}
    assert {scope for (method, _), scope in scopes.items() if method == "POST"} == {Scope.OPS}
