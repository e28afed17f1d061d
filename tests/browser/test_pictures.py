"""Takes the pictures of README and docs, in light and in dark: `make pictures`. Otherwise it only shows that it can."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.checks import SCHEMES
from tests.infrastructure.waiting import wait_until
from tests.integration.deploy_local.local_run import LocalRun

pytestmark = pytest.mark.long

BYTES_MAX = 200_000  # a page with several of them is still loaded at once
BACK_MILLISECONDS = 60_000
COMPARED_SECONDS = 60  # an order is old enough after a few


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the pictures go."""
    return Path(os.environ.get("PICTURES") or tmp_path)


def take(page: Page, folder: Path, name: str) -> None:
    """Take a picture of what the page shows, in each scheme."""
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        path = folder / f"{name}-{scheme}.png"
        page.screenshot(path=path, animations="disabled", caret="hide")
        assert path.stat().st_size < BYTES_MAX
    page.emulate_media(color_scheme="light")


def has_compared_all(page: Page) -> bool:
    """Compare the books; return whether no order was too young for it."""
    page.get_by_role("button", name="Compare all books").click()
    expect(page.get_by_role("button", name="Compare all books")).to_be_visible()
    notes: int = page.locator("#platform pre").count()
    return notes == 0


def test_playground_and_console_while_a_service_is_paused(run: LocalRun, page: Page, folder: Path) -> None:
    page.set_viewport_size({"width": 1240, "height": 880})
    page.goto(run.run_json()["playground"])
    said, state = page.locator("#shop .said"), page.locator(".orders .state").first
    page.get_by_label("Buy now: Wireless mouse").click()
    expect(said).to_contain_text("PAID")
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    expect(said).to_contain_text("REFUNDED")
    page.get_by_label("Buy now: 27-inch monitor").click()
    expect(said).to_contain_text("PAID")
    page.get_by_label("Buy, pay later: Signed print").click()
    expect(said).to_contain_text("PENDING_PAYMENT")
    page.get_by_label("Kill product").click()
    expect(page.locator("#age")).to_contain_text("after everything was ready again", timeout=BACK_MILLISECONDS)
    wait_until(lambda: has_compared_all(page), COMPARED_SECONDS, "books without an order that is too young")
    page.get_by_label("Pause balance").click()
    expect(page.locator("#state-balance")).to_have_text("paused")
    page.get_by_label("Buy now: Mechanical keyboard").click()
    expect(said).to_contain_text("No final answer yet")
    expect(state).to_have_text("placing")
    take(page, folder, "playground")
    page.get_by_label("Let balance run again").click()
    expect(state).to_have_text("paid")
    page.goto(f"{run.run_json()['console']['url']}/orders")
    page.locator("main table a").first.click()
    expect(page.locator("main h1")).to_be_visible()
    page.set_viewport_size({"width": 1240, "height": 560})
    take(page, folder, "console-order")
