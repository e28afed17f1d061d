"""Services: leases of the order service's processes, and the settings in effect of each replica, without secrets."""

import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared.identity.authenticator import JwtAuthenticator
from shared.identity.keys import IssuerKeys
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.issuer import RSA, RULES, jwk_set
from tests.infrastructure.services import serving
from tests.infrastructure.waiting import free_port
from tests.integration.console.serving import NOWHERE, Browser, console
from tests.integration.console.test_sign_in import read_keys, sign_in, token
from tests.integration.order_admin.operators import a_case, blocked, place

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROW = re.compile(r'<tr><th scope="row" class="code">(\w+)</th><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>')


def section(text: str, name: str) -> str:
    """Return a section of the page as text."""
    return unescape(text.partition(f'aria-labelledby="{name}"')[2].partition("</section>")[0])


@pytest_asyncio.fixture(loop_scope="module")
async def browser(checkout: Checkout) -> AsyncIterator[Browser]:
    order, admin = checkout.shop.order.url, checkout.admin.url
    product = checkout.shop.product.url
    # The listener for operators has no settings: it stands for a replica of an earlier version.
    replicas: dict[str, Any] = {"order_replicas": order, "product_replicas": product, "coupon_replicas": admin}
    async with console(order_url=order, order_admin_url=admin, **replicas) as found:
        yield found


async def test_settings_that_differ_come_first_and_secrets_are_only_named(checkout: Checkout, browser: Browser) -> None:
    shown = section((await browser.get("/services")).text, "settings")
    order = shown.partition("Order")[2].partition("</details>")[0]
    rows = ROW.findall(order)
    differing = [variable for variable, value, _ in rows if value.startswith("<strong>")]
    assert [variable for variable, _, _ in rows[: len(differing)]] == differing
    assert f"{len(differing)} differ from their defaults" in order
    assert ("ORDER_LEASE_SECONDS", "<strong>2</strong>", "5") in rows
    assert ("ORDER_SAGAS_MAX", "512", "512") in rows
    assert ("ORDER_DATABASE_URL", "set, not shown", "") in rows
    assert checkout.database.as_role("order_service") not in shown
    assert "PRODUCT_PORT" in shown


async def test_replica_without_settings_to_show_says_why(browser: Browser) -> None:
    shown = section((await browser.get("/services")).text, "settings")
    replicas = shown.split("<details>")
    assert len(replicas) == 6
    coupon, away = replicas[3], [text for text in replicas if f"{NOWHERE.removeprefix('http://')}</span>" in text]
    assert '<p class="note">There is no' in coupon, coupon
    assert len(away) == 2
    assert all('<p class="note">away</p>' in text for text in away)


async def test_refresh_of_the_page_asks_for_no_settings(browser: Browser) -> None:
    answer = await browser.get("/services", **{"HX-Request": "true"})
    assert answer.has('id="services"')
    assert "ORDER_LEASE_SECONDS" not in answer.text


async def test_leases_name_the_replica_and_its_sagas(checkout: Checkout, browser: Browser) -> None:
    async with blocked(checkout, "coupon"):
        await place(checkout, await a_case(checkout), "now")
        shown = section((await browser.get("/services")).text, "leases")
        process_id = (await checkout.shop.order.get("/readyz"))["process_id"]
        place_ = checkout.shop.order.url.removeprefix("http://")
        assert f'title="{process_id}">{place_}</th>' in shown
        assert '<td class="number">1</td>' in shown
        await checkout.db.execute(
            "UPDATE orders.sagas SET owner = gen_random_uuid(), version = version + 50 WHERE status = 'RUNNING'"
        )
        assert "none: others take its sagas" in section((await browser.get("/services")).text, "leases")
        await checkout.db.execute("UPDATE orders.sagas SET version = version - 50 WHERE status = 'RUNNING'")
    await checkout.until_idle()


async def test_order_service_that_does_not_tell_is_named() -> None:
    async with console() as browser:
        shown = section((await browser.get("/services")).text, "leases")
    assert "The order service did not tell." in shown


async def test_settings_are_asked_for_with_the_operators_own_token(checkout: Checkout, tmp_path: Path) -> None:
    keys, secrets, internal = tmp_path / "jwks.json", tmp_path / "secrets", free_port()
    keys.write_bytes(jwk_set(RSA))
    secrets.write_text(f"order {'x' * 40}\n")
    identity: dict[str, Any] = {
        "auth_mode": "jwt",
        "auth_issuer": RULES.issuer,
        "auth_audience": RULES.audience,
        "auth_jwks": str(keys),
    }
    replica = {"internal_port": internal, "internal_secret_file": str(secrets)}
    async with (
        serving("product", checkout.database.as_role("product_service"), **replica, **identity),
        IssuerKeys(read_keys) as known,
        console(
            JwtAuthenticator(RULES, known), auth_mode="jwt", product_replicas=f"http://127.0.0.1:{internal}"
        ) as browser,
    ):
        await sign_in(browser, token())
        shown = section((await browser.get("/services")).text, "settings")
    assert ("PRODUCT_INTERNAL_PORT", f"<strong>{internal}</strong>", "\u2013") in ROW.findall(shown)
    assert str(secrets) in shown, "the path of a file is no secret"
    assert "x" * 40 not in shown
