"""The console: its pages have no barrier, and an operator finds a saga that waits and repairs it."""

import re
import signal
import subprocess

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.browser.checks import check_looks, sideways
from tests.integration.deploy_local.local_run import LocalRun

WIDTHS = (360, 768, 2560)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/orders",
        *(pytest.param(path, marks=pytest.mark.long) for path in ("/sagas", "/outbox", "/books", "/services")),
    ],
)
def test_page_of_the_console_has_no_barrier(run: LocalRun, page: Page, path: str) -> None:
    page.goto(run.run_json()["console"]["url"] + path)
    expect(page.locator("main h1")).to_be_visible()
    page.evaluate("document.querySelectorAll('main details').forEach(one => { one.open = true })")
    check_looks(page)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert sideways(page) == [], width


def test_figures_arrive_while_the_page_is_open(run: LocalRun, page: Page) -> None:
    page.goto(run.run_json()["console"]["url"])
    expect(page.locator("#connection")).to_have_class(re.compile("good"))
    expect(page.locator(".plot canvas").first).to_be_visible()


@pytest.mark.long
def test_korean_reader_gets_korean_pages(run: LocalRun, page: Page) -> None:
    page.goto(run.run_json()["console"]["url"])
    page.get_by_role("button", name="한국어").click()
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    check_looks(page)


@pytest.mark.long
def test_saga_that_waits_is_found_and_undone(run: LocalRun, page: Page) -> None:
    balance = psutil.Process(run.pid("balance"))
    page.goto(run.run_json()["playground"])
    balance.send_signal(signal.SIGSTOP)
    try:
        page.get_by_label("Buy now: 27-inch monitor").click()
        expect(page.locator(".orders .state").first).to_have_text("placing")
        page.goto(f"{run.run_json()['console']['url']}/sagas")
        page.locator("main table a[href^='/sagas/']").first.click()
        page.locator("#act-force").click()
        page.get_by_label("Reason").fill("the customer has called")
        page.get_by_label("Your name").fill("olga")
        check_looks(page)
        page.get_by_role("button", name="Try it").click()
        expect(page.locator("main h1")).to_have_text("Confirm")
        check_looks(page)
        page.locator("button.danger").click()
        expect(page.locator(".banner.good")).to_contain_text("Force")
    finally:
        balance.send_signal(signal.SIGCONT)
    expect(page.locator("#saga .facts .state")).to_have_text("undone", timeout=30_000)
    page.locator("#saga a[href^='/orders/']").first.click()
    expect(page.locator("main .state").first).to_have_text("rejected")
    check_looks(page)


# As if Kafka had refused a published event.
PARK = """
import sys, psycopg
with psycopg.connect(sys.argv[1]) as database:
    database.execute(
        "UPDATE orders.outbox SET status = 'PARKED', sent_at = NULL, parked_at = now(), parked_reason = 'too large'"
        " WHERE event_id = (SELECT event_id FROM orders.outbox WHERE status = 'SENT' ORDER BY event_id DESC LIMIT 1)"
    )
"""


@pytest.mark.long
def test_parked_event_is_found_and_published(run: LocalRun, page: Page) -> None:
    page.goto(run.run_json()["playground"])
    page.get_by_label("Buy now: Wireless mouse").click()
    expect(page.locator("#shop .said")).to_contain_text("PAID")
    page.goto(f"{run.run_json()['console']['url']}/orders")
    page.locator("main table a").first.click()
    expect(page.locator("main")).to_contain_text("published")
    subprocess.run([run.python, "-c", PARK, run.run_json()["database"]], check=True, timeout=30)
    page.goto(f"{run.run_json()['console']['url']}/outbox")
    expect(page.get_by_role("heading", name="Parked events: 1")).to_be_visible()
    check_looks(page)
    page.get_by_role("link", name="Retry", exact=True).click()
    page.get_by_label("Reason").fill("Kafka takes larger records now")
    page.get_by_label("Your name").fill("olga")
    page.get_by_role("button", name="Try it").click()
    page.locator("main form button").click()
    expect(page.locator(".banner.good")).to_contain_text("Retry")
    expect(page.get_by_role("heading", name="Parked events: 0")).to_be_visible()


@pytest.mark.long
def test_link_of_another_site_ends_no_session(run: LocalRun, page: Page) -> None:
    url = run.run_json()["console"]["url"]
    page.goto(url)
    before = {cookie["name"]: cookie["value"] for cookie in page.context.cookies(url)}
    page.goto(url.replace("127.0.0.1", "localhost"))  # another site, for a browser
    with page.expect_navigation(url=f"{url}/services"):
        page.evaluate("url => { location.href = url; }", f"{url}/services")
    expect(page.locator("main h1")).to_have_text("Services")
    assert before
    assert {cookie["name"]: cookie["value"] for cookie in page.context.cookies(url)} == before


@pytest.mark.long
def test_operator_signs_in_with_a_token(run_jwt: LocalRun, page: Page) -> None:
    token, _ = run_jwt.command("deploy.local.token", "olga", "ops orders:read events:read").communicate(timeout=30)
    page.goto(f"{run_jwt.run_json()['console']['url']}/sagas")
    check_looks(page)
    page.get_by_label("Access token").fill(token.strip())
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("main h1")).to_have_text("Sagas")
    expect(page.locator("body")).to_contain_text("Signed in as olga")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("main h1")).to_have_text("Sign in")
