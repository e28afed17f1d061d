"""An operator finds a saga that the order service itself calls stuck, and repairs it in the console in two minutes."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from tests.browser.checks import check_looks
from tests.browser.conftest import running
from tests.infrastructure.proxy import Mode, Proxy
from tests.infrastructure.waiting import wait_until
from tests.integration.deploy_local.local_run import LocalRun

STUCK_SECONDS = 90  # twelve undos that fail at once take half a minute
REPAIRED_SECONDS = 120  # the promise: from the console's first page until the saga has ended


class Way:
    """The way from the order service to the product service, which a test may close."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy, self._loop = proxy, loop
        self.url = proxy.url

    def lead_to(self, port: int) -> None:
        """Lead to this port of this machine."""
        self._loop.call_soon_threadsafe(self._proxy.lead_to, "127.0.0.1", port)

    def set(self, mode: Mode) -> None:
        """Open or close the way."""
        self._loop.call_soon_threadsafe(self._proxy.set, mode)


@contextmanager
def way() -> Iterator[Way]:
    """Serve the proxy in a thread, because Playwright's calls block this one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = Proxy("127.0.0.1", 0)
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result()
        yield Way(proxy, loop)
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def asked(url: str, body: Any = None) -> Any:
    """Return what a service answers to an operator's call."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def to_product() -> Iterator[Way]:
    """The order service's way to the product service."""
    with way() as made:
        yield made


@pytest.fixture
def run_with_way(to_product: Way, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """A platform whose order service uses that way."""
    with running(tmp_path_factory.mktemp("run"), ORDER_PRODUCT_URL=to_product.url) as run:
        to_product.lead_to(run.ports["product"])
        yield run


@pytest.mark.long
@pytest.mark.timeout(STUCK_SECONDS + 2 * REPAIRED_SECONDS)
def test_stuck_saga_is_found_and_repaired_within_two_minutes(
    run_with_way: LocalRun, to_product: Way, page: Page
) -> None:
    addresses = run_with_way.run_json()
    page.goto(addresses["playground"])
    stock = page.locator("#stock-monitor").inner_text()
    page.get_by_label("Buy now: 27-inch monitor").click()
    expect(page.locator("#shop .said")).to_contain_text("PAID")
    to_product.set(Mode.CLOSED)
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    stuck = f"{addresses['services']['order']['admin_url']}/admin/v1/sagas?state=stuck"
    (saga,) = wait_until(lambda: asked(stuck)["items"], STUCK_SECONDS, "a stuck saga")

    began = time.monotonic()
    page.goto(addresses["console"]["url"])
    expect(page.locator("[data-tile='sagas.stuck']")).to_have_text("1")
    page.get_by_role("link", name="Sagas", exact=True).click()
    page.get_by_label("State").select_option(label="stuck")
    page.get_by_role("button", name="Show").click()
    check_looks(page)
    page.locator("#sagas table a[href^='/sagas/']").click()
    expect(page.locator("#saga")).to_contain_text("restore_stock")
    # The way stays closed. So the operator sends the undo by hand, as the runbook says, before ending the saga.
    undo = {"type": "restore_stock", "order_id": saga["order_id"]}
    product = addresses["services"]["product"]["url"]
    (outcome,) = asked(f"{product}/internal/v1/commands", {"commands": [undo]})["outcomes"]
    assert outcome["outcome"] == "applied"
    page.locator("#act-resolve").click()
    page.get_by_label("Reason").fill("the stock is restored by hand")
    page.get_by_label("Your name").fill("olga")
    page.get_by_role("button", name="Try it").click()
    expect(page.locator("main h1")).to_have_text("Confirm")
    page.locator("button.danger").click()
    expect(page.locator(".banner.good")).to_contain_text("Resolve")
    expect(page.locator("#saga .facts .state")).to_have_text("undone")
    seconds = time.monotonic() - began
    print(f"\na stuck saga was found and repaired within {seconds:.1f} s of opening the console")
    assert seconds < REPAIRED_SECONDS

    assert asked(stuck)["items"] == []
    to_product.set(Mode.OPEN)
    page.goto(addresses["playground"])
    expect(page.locator(".orders .state").first).to_have_text("refunded")
    expect(page.locator("#stock-monitor")).to_have_text(stock)
    audit = run_with_way.command("deploy.local.audit", "--json")
    report, _ = audit.communicate(timeout=60)
    assert (audit.returncode, json.loads(report)["clean"]) == (0, True), report
