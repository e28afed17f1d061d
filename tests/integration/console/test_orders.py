"""Orders are found by id and by user; one shows its steps, its lines and whether its events are published."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.console.pages.orders import is_uuid
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.shopping import an_order
from tests.integration.client.samples import ORDER_ID
from tests.integration.client.server import Server, answer, misbehaving, refuse
from tests.integration.console.serving import Browser, console
from tests.integration.order_admin.operators import STOCK, a_case, blocked, place, placed

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def browser(checkout: Checkout) -> AsyncIterator[Browser]:
    url, admin = checkout.shop.order.url, checkout.admin.url
    async with console(order_url=url, order_admin_url=admin) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def relay() -> AsyncIterator[Server]:
    """Serve what the test tells, as the relay."""
    async with misbehaving() as server:
        yield server


async def test_order_is_found_by_its_id_and_by_its_user(checkout: Checkout, browser: Browser) -> None:
    case = await placed(checkout, "now")
    await checkout.until_idle()
    other = await placed(checkout, "later")
    await checkout.until_idle()
    assert (await browser.get(f"/orders?q=+{case.order_id}+")).headers["Location"] == f"/orders/{case.order_id}"
    found = await browser.get(f"/orders?q={case.user}")
    assert found.has("Found: 1", case.order_id, case.user, "paid")
    assert other.order_id not in found.text
    assert (await browser.get("/orders")).has(case.order_id, other.order_id)
    by_status = await browser.get("/orders?status=PENDING_PAYMENT")
    assert by_status.has(other.order_id, "to be paid")
    assert case.order_id not in by_status.text
    assert (await browser.get("/orders?q=nobody&status=nonsense")).has("No order matches.")


async def test_order_shows_its_steps_with_durations_and_its_lines(checkout: Checkout, browser: Browser) -> None:
    case = await placed(checkout, "now")
    await checkout.until_idle()
    shown = await browser.get(f"/orders/{case.order_id}")
    assert shown.has("place_now", "hold_stock", "redeem_coupon", "debit", " ms</small>", case.coupon, case.product)
    assert "that were repeated" not in shown.text
    assert shown.has(f'hx-get="/orders/{case.order_id}/events"', f'href="/sagas/{case.order_id}"')


async def test_refused_order_says_why(checkout: Checkout, browser: Browser) -> None:
    case = await a_case(checkout)
    body = an_order(case.user, case.product)
    body["lines"][0]["quantity"] = STOCK + 1
    assert (await checkout.shop.order.call("POST", "/v1/orders", body)).status == 400
    (order,) = (await checkout.shop.order.get("/v1/orders", user_id=case.user))["items"]
    shown = await browser.get(f"/orders/{order['order_id']}")
    assert shown.has("rejected", "refused", "hold_stock")


async def test_command_without_an_outcome_is_shown_as_repeated(checkout: Checkout, browser: Browser) -> None:
    async with blocked(checkout, "coupon"):
        case = await place(checkout, await a_case(checkout), "now")
    await checkout.until_idle()
    shown = await browser.get(f"/orders/{case.order_id}")
    assert shown.has("unknown, repeated", "was unknown for a while: 1")


async def test_order_that_does_not_exist_is_a_page_with_status_404(browser: Browser) -> None:
    assert (await browser.get("/orders/00000000-0000-7000-8000-000000000000")).status == 404


def an_event(sequence: int, status: str) -> dict[str, object]:
    return {
        "event_id": ORDER_ID,
        "order_id": ORDER_ID,
        "sequence": sequence,
        "type": "order.paid.v1",
        "occurred_at": "2026-11-28T04:00:05Z",
        "status": status,
        "shard": 1,
        "sha256": None,
    }


async def test_events_show_whether_they_are_published(relay: Server) -> None:
    statuses = ("SENT", "PARKED", "PENDING", "SKIPPED")
    events = [an_event(number, status) for number, status in enumerate(statuses, 1)]
    relay.will(answer(200, {"items": events, "next_cursor": None}))
    async with console(relay_url=relay.url) as browser:
        shown = await browser.get(f"/orders/{ORDER_ID}/events")
    assert shown.has("order.paid.v1", "2026-11-28 04:00:05", "published", "parked", "waits", "skipped")
    assert relay.received[-1].path in (
        f"/v1/events?order_id={ORDER_ID}&limit=50",
        f"/v1/events?limit=50&order_id={ORDER_ID}",
    )


async def test_events_that_the_relay_refuses_say_why(relay: Server) -> None:
    relay.will(refuse(403, "forbidden"))
    async with console(relay_url=relay.url) as browser:
        shown = await browser.get(f"/orders/{ORDER_ID}/events")
    assert (shown.status, shown.has("forbidden")) == (200, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(ORDER_ID, True), (ORDER_ID.upper(), True), (ORDER_ID.replace("-", ""), False), ("alice", False), ("", False)],
)
async def test_id_is_told_from_a_user(text: str, *, expected: bool) -> None:
    assert is_uuid(text) is expected
