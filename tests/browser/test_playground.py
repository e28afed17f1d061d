"""The playground: customers buy, processes break and come back, and the books agree all the while."""

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.browser.checks import check_looks
from tests.integration.deploy_local.local_run import LocalRun

BACK_MILLISECONDS = 60_000  # of a busy machine; alone it takes 2 to 8 s


@pytest.fixture
def playground(run: LocalRun, page: Page) -> Page:
    """The playground in a tab."""
    page.goto(run.run_json()["playground"])
    return page


def said(page: Page, text: str) -> None:
    """Wait until the shop says this."""
    expect(page.locator("#shop .said")).to_contain_text(text)


def is_back(page: Page, fault: str) -> None:
    """Wait until the platform has overcome a fault, and the audit that follows has found nothing."""
    latest = page.locator(".faults li").first
    expect(latest).to_contain_text(f"{fault}: everything was ready again", timeout=BACK_MILLISECONDS)
    expect(page.locator("#age")).to_contain_text("after everything was ready again", timeout=BACK_MILLISECONDS)
    expect(page.locator("#verdict")).to_have_attribute("data-clean", "true")


def test_playground_has_no_barrier(playground: Page) -> None:
    playground.get_by_label("Buy now: Mechanical keyboard").click()
    said(playground, "PAID")
    check_looks(playground)


@pytest.mark.long
def test_korean_reader_gets_a_korean_playground(playground: Page) -> None:
    playground.get_by_role("button", name="한국어").click()
    expect(playground.locator("html")).to_have_attribute("lang", "ko")
    playground.get_by_label("바로 구매: Wireless mouse").click()
    said(playground, "Wireless mouse 1개, 25,000 KRW")
    expect(playground.locator(".orders .state").first).to_have_text("결제 완료")
    check_looks(playground)
    playground.get_by_role("button", name="English").click()
    expect(playground.get_by_role("heading", name="Products")).to_be_visible()


def test_customer_buys_now_pays_later_and_gets_money_back(playground: Page) -> None:
    stock = playground.locator("#stock-mouse").inner_text()
    playground.get_by_label("Buy now: Wireless mouse").click()
    said(playground, "PAID: 1 of Wireless mouse, 25,000 KRW")
    expect(playground.locator("#stock-mouse")).not_to_have_text(stock)
    playground.get_by_label("Buy, pay later: Wireless mouse").click()
    said(playground, "PENDING_PAYMENT")
    playground.get_by_role("button", name="Pay", exact=True).first.click()
    said(playground, "PAID")
    for _ in range(2):  # the newest first
        playground.get_by_role("button", name="Cancel", exact=True).first.click()
        said(playground, "REFUNDED")
    expect(playground.locator(".orders li .state").nth(1)).to_have_text("refunded")
    expect(playground.locator("#stock-mouse")).to_have_text(stock)


@pytest.mark.long
def test_customer_without_money_is_refused(playground: Page) -> None:
    playground.get_by_role("link", name="carol").click()
    expect(playground.locator("#balance")).to_have_text("1,000 KRW")
    playground.get_by_label("Buy now: Wireless mouse").click()
    said(playground, "Refused")
    expect(playground.locator(".orders .state").first).to_have_text("rejected")


@pytest.mark.long
def test_empty_shelf_sells_nothing_until_it_is_filled(playground: Page) -> None:
    stock = playground.locator("#stock-print").inner_text()
    playground.get_by_label("Empty the stock: Signed print").click()
    expect(playground.locator("#stock-print")).to_have_text("0 in stock")
    playground.get_by_label("Buy now: Signed print").click()
    said(playground, "Refused")
    playground.get_by_label("Put the units back: Signed print").click()
    expect(playground.locator("#stock-print")).to_have_text(stock)


def test_killed_service_comes_back_and_the_books_agree(run: LocalRun, playground: Page) -> None:
    killed = run.pid("product")
    playground.get_by_label("Kill product").click()
    is_back(playground, "kill product")
    assert run.pid("product") not in (0, killed)
    playground.get_by_label("Buy now: Mechanical keyboard").click()
    said(playground, "PAID")


@pytest.mark.long
def test_order_that_meets_a_paused_service_ends_after_it(run: LocalRun, playground: Page) -> None:
    paused = psutil.Process(run.pid("balance"))
    playground.get_by_label("Pause balance").click()
    expect(playground.locator("#state-balance")).to_have_text("paused")
    assert paused.status() == psutil.STATUS_STOPPED
    playground.get_by_label("Buy now: Mechanical keyboard").click()
    expect(playground.locator(".orders .state").first).to_have_text("placing")
    expect(playground.locator("#shop")).to_contain_text("No answer from balance")
    playground.get_by_label("Let balance run again").click()
    expect(playground.locator(".orders .state").first).to_have_text("paid")
    is_back(playground, "pause balance")


@pytest.mark.long
@pytest.mark.parametrize("server", ["broker", "postgres"])
def test_stopped_server_comes_back_and_the_books_agree(playground: Page, server: str) -> None:
    playground.get_by_label(f"Stop {server}").click()
    expect(playground.locator(f"#state-{server}")).to_have_text("stopped")
    if server == "postgres":
        expect(playground.locator("#state-order")).to_have_text("not ready")
    playground.get_by_label(f"Let {server} run again").click()
    is_back(playground, f"stop {server}")
    playground.get_by_label("Buy now: Mechanical keyboard").click()
    said(playground, "PAID")


@pytest.mark.long
def test_books_are_compared_at_the_push_of_a_button(playground: Page) -> None:
    playground.get_by_role("button", name="Compare all books").click()
    expect(playground.locator("#verdict")).to_have_attribute("data-clean", "true", timeout=BACK_MILLISECONDS)
    expect(playground.locator("#platform")).to_contain_text("0 findings")


@pytest.mark.long
def test_playground_has_tokens_where_callers_are_asked_for_them(run_jwt: LocalRun, page: Page) -> None:
    page.goto(run_jwt.run_json()["playground"])
    page.get_by_label("Buy now: Mechanical keyboard").click()
    said(page, "PAID")
    page.get_by_label("Empty the stock: Signed print").click()
    expect(page.locator("#stock-print")).to_have_text("0 in stock")
    page.get_by_role("button", name="Compare all books").click()
    expect(page.locator("#verdict")).to_have_attribute("data-clean", "true", timeout=BACK_MILLISECONDS)


@pytest.mark.long
def test_order_that_is_not_paid_is_seen_to_expire(run_jwt: LocalRun, page: Page) -> None:
    page.goto(run_jwt.run_json()["playground"])
    stock = page.locator("#stock-mouse").inner_text()
    page.get_by_label("Buy, pay later: Wireless mouse").click()
    said(page, "PENDING_PAYMENT")
    expect(page.locator(".orders .state").first).to_have_text("expired")
    expect(page.locator("#stock-mouse")).to_have_text(stock)


@pytest.mark.long
def test_stock_that_was_taken_away_returns_after_make_run_was_killed(own_run: LocalRun, page: Page) -> None:
    page.goto(own_run.run_json()["playground"])
    page.get_by_label("Empty the stock: Signed print").click()
    expect(page.locator("#stock-print")).to_have_text("0 in stock")
    page.goto("about:blank")
    own_run.kill_all()
    page.goto(own_run.start().run_json()["playground"])
    expect(page.locator("#stock-print")).to_have_text("3 in stock")
