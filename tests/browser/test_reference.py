"""The pages that describe the interfaces: /docs, which also sends requests, the events' page and the problem types."""

import pytest
from playwright.sync_api import Page, expect

from deploy.local.configuration import ADMIN_PORTS, SERVICES
from tests.browser.checks import check_looks
from tests.integration.deploy_local.local_run import LocalRun

PLAIN = ("/asyncapi", "/problems", "/problems/out-of-stock")


@pytest.mark.parametrize(
    ("service", "address"),
    [
        pytest.param(name, address, marks=[] if name == "order" else pytest.mark.long)
        for address, names in (("url", SERVICES), ("admin_url", ADMIN_PORTS))
        for name in names
    ],
)
def test_page_of_the_calls_has_no_barrier(run: LocalRun, page: Page, service: str, address: str) -> None:
    page.goto(f"{run.run_json()['services'][service][address]}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    check_looks(page)


def test_call_in_the_page_of_the_calls_has_no_barrier(run: LocalRun, page: Page) -> None:
    page.goto(f"{run.run_json()['services']['order']['url']}/docs")
    page.locator(".opblock-summary-control").first.click()
    expect(page.locator(".opblock-body").first).to_be_visible()
    check_looks(page)


@pytest.mark.parametrize("path", PLAIN)
def test_plain_page_has_no_barrier(run: LocalRun, page: Page, path: str) -> None:
    answer = page.goto(f"{run.run_json()['services']['relay']['url']}{path}")
    assert answer is not None
    assert answer.status == 200
    check_looks(page)


def test_page_of_the_calls_places_an_order(run: LocalRun, page: Page) -> None:
    page.goto(f"{run.run_json()['services']['order']['url']}/docs")
    call = page.locator(".opblock-post", has_text="/v1/orders").first
    call.locator(".opblock-summary-control").click()
    order = '{"user_id": "alice", "lines": [{"product_id": "mouse", "quantity": 1}], "payment": "now"}'
    call.locator("textarea.body-param__text").fill(order)
    call.get_by_role("button", name="Execute").click()
    answer = call.locator(".live-responses-table")
    expect(answer.locator("tbody .response-col_status").first).to_contain_text("201")
    expect(answer).to_contain_text('"status": "PAID"')
