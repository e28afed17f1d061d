"""The books: the audit's last pass, an audit now, and a repair that is tried and confirmed before anything is sent."""

import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from html import unescape

import pytest
import pytest_asyncio

from deploy.console.pages import books
from deploy.orderctl.platform import LONG_CALL
from tests.infrastructure.books import violations
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.waiting import eventually
from tests.integration.console.serving import Browser, console
from tests.integration.order_admin.operators import Case, blocked, placed

pytestmark = pytest.mark.asyncio(loop_scope="module")
WHY = {"reason": "counted the shelf", "by": "sue"}
NOBODY = "01a00000-0000-7000-8000-000000000000"
TRIAL = re.compile(r'name="trial" value="(\w+)"')
SECONDS = 30.0


@pytest_asyncio.fixture(loop_scope="module")
async def browser(checkout: Checkout) -> AsyncIterator[Browser]:
    url, admin = checkout.shop.order.url, checkout.admin.url
    async with console(order_url=url, order_admin_url=admin, order_replicas=url, deadline_seconds=0.2) as found:
        yield found


async def an_orphan(checkout: Checkout) -> Case:
    """Let the product service hold two units for an order that does not exist."""
    case = await placed(checkout, "now")
    await checkout.until_idle()
    await checkout.db.execute("UPDATE products.products SET stock = stock - 2 WHERE product_id = $1", case.product)
    insert = "INSERT INTO products.holds (order_id, product_id, quantity, unit_price) VALUES ($1, $2, 2, 1000)"
    await checkout.db.execute(insert, NOBODY, case.product)
    return case


async def ended(browser: Browser) -> str:
    """Wait for the end of the job, and return its page."""

    async def is_over() -> bool:
        job = browser.parts.jobs.last
        return job is not None and not job.is_running

    await eventually(is_over, SECONDS, "the end of the job")
    return unescape((await browser.get("/books")).text)


async def test_audit_and_repair_from_finding_to_clean_books(checkout: Checkout, browser: Browser) -> None:
    await an_orphan(checkout)
    begun = await browser.submit("/books", "/books/audit")
    assert (begun.status, begun.headers["Location"]) == (303, "/books#job")
    text = await ended(browser)
    assert "Findings: 1" in text
    assert "held without an order" in text
    assert NOBODY in text
    assert "2 units of stock" in text

    tried = await browser.submit("/books/repair", "/books/repair", **WHY)
    assert tried.headers["Location"] == "/books#job"
    text = await ended(browser)
    assert "Commands that the repair would send: 1" in text
    assert "restore_stock" in text
    assert (await checkout.admin.get("/admin/v1/acts"))["items"] == [], "nothing was done yet"

    found = TRIAL.search(text)
    assert found is not None
    confirmed = "/books/repair/confirmed"
    trial = browser.parts.jobs.last
    assert trial is not None
    ended_at, trial.ended_at = trial.ended_at, time.time() - books.TRIAL_SECONDS
    assert (await browser.submit("/books", confirmed, trial=found[1])).status == 409, "it was looked at too long ago"
    assert (await browser.get("/books")).has("too long ago")
    trial.ended_at = ended_at
    assert (await browser.submit("/books", confirmed, trial="another")).status == 409
    await browser.submit("/books", confirmed, trial=found[1])
    assert "Commands sent: 1. Refused: 0" in await ended(browser)
    assert (await browser.submit("/books", confirmed, trial=found[1])).status == 409, "a trial is confirmed once"
    act = (await checkout.admin.get("/admin/v1/acts"))["items"][0]
    assert (act["act"], act["actor"], act["reason"], act["order_id"]) == ("repair", "sue", WHY["reason"], NOBODY)

    await browser.submit("/books", "/books/audit")
    assert "the books agree" in await ended(browser)
    assert await violations(checkout.database.url) == []
    await browser.parts.sampler.round()
    assert (await browser.get("/books")).has("The books agree", "Value at risk")


async def test_audit_that_can_not_read_all_books_says_so(
    checkout: Checkout, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "LONG_CALL", replace(LONG_CALL, repeat_seconds=0.1))
    async with blocked(checkout, "balance"):
        browser.parts.jobs.last = None
        await browser.submit("/books", "/books/audit")
        text = await ended(browser)
    assert 'class="bad"' in text
    assert "the books agree" not in text


async def test_second_pass_is_refused_while_one_runs(browser: Browser) -> None:
    await browser.submit("/books", "/books/audit")
    second = await browser.submit("/books", "/books/audit")
    assert second.headers["Location"] == "/books?busy=1"
    assert (await browser.get("/books?busy=1")).has("Another pass or repair is running.")
    await ended(browser)


@pytest.mark.parametrize("fields", [{"reason": "why"}, {"by": "sue"}, {}])
async def test_repair_without_reason_or_name_is_asked_again(browser: Browser, fields: dict[str, str]) -> None:
    before = browser.parts.jobs.last
    answer = await browser.submit("/books/repair", "/books/repair", restored_coupon="1", **fields)
    assert (answer.status, answer.has("Say why, and who you are.", "checked")) == (400, True)
    assert browser.parts.jobs.last is before


async def test_nothing_is_known_before_the_first_look(browser: Browser) -> None:
    assert (await browser.get("/books")).has("No replica has told of a pass yet.")
