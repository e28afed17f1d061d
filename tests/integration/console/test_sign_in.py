"""With identity on, an operator signs in with a token, which decides what is shown and until when."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.identity.authenticator import JwtAuthenticator
from shared.identity.keys import IssuerKeys
from tests.infrastructure.issuer import RSA, RULES, claims, jwk_set, sign
from tests.integration.console.serving import Browser, console

SCOPES = "ops:read"


async def read_keys() -> bytes:
    return jwk_set(RSA)


def token(scope: str = SCOPES, seconds: float = 600.0, **changes: object) -> str:
    now = time.time()
    return sign(claims(sub="alice", scope=scope, exp=now + seconds, nbf=now - 1, **changes))


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with IssuerKeys(read_keys) as keys, console(JwtAuthenticator(RULES, keys), auth_mode="jwt") as found:
        yield found


async def sign_in(browser: Browser, given: str, next_: str = "/") -> int:
    return (await browser.submit("/sign-in", "/sign-in", access_token=given, next=next_)).status


async def test_visitor_is_led_to_sign_in_and_back(browser: Browser) -> None:
    answer = await browser.get("/services?a=1")
    assert (answer.status, answer.headers["Location"]) == (303, "/sign-in?next=/services%3Fa%3D1")
    page = await browser.get("/sign-in?next=/services%3Fa%3D1")
    assert page.has('name="next" value="/services?a=1"', "make token")
    assert 'href="/services"' not in page.text
    answer = await browser.submit("/sign-in", "/sign-in", access_token=token(), next="/services?a=1")
    assert (answer.status, answer.headers["Location"]) == (303, "/services?a=1")
    assert (await browser.get("/services?a=1")).has("Signed in as alice", "Sign out")


async def test_session_has_an_id_that_the_browser_did_not_have_before(browser: Browser) -> None:
    await browser.get("/sign-in")
    before = browser.jar["console-id"]
    given = token()
    assert await sign_in(browser, given) == 303
    assert browser.jar["console-id"] != before
    assert not [part for part in given.split(".") if part in str(browser.jar)], "the token stays at the server"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("", id="nothing"),
        pytest.param("not-a-token", id="no token"),
        pytest.param(token(seconds=-600), id="expired"),
        pytest.param(token(aud="another"), id="another audience"),
        pytest.param(token(iss="https://evil.test"), id="another issuer"),
        pytest.param(token()[:-8] + "AAAAAAAA", id="changed signature"),
    ],
)
async def test_invalid_token_is_refused_and_begins_no_session(browser: Browser, given: str) -> None:
    answer = await browser.submit("/sign-in", "/sign-in", access_token=given, next="/")
    assert answer.status == 401
    assert answer.has('role="alert"', "This token is not valid")
    assert (await browser.get("/")).status == 303


async def test_whole_header_may_be_pasted(browser: Browser) -> None:
    assert await sign_in(browser, f"  Bearer {token()}\n") == 303


async def test_session_ends_with_its_token(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await sign_in(browser, token(seconds=600)) == 303
    assert (await browser.get("/")).status == 200
    later = time.time() + 700
    monkeypatch.setattr(browser.parts.sessions, "_clock", lambda: later)
    assert (await browser.get("/")).headers["Location"] == "/sign-in?next=/"


async def test_part_of_a_page_makes_the_page_load_again_once_the_session_has_ended(browser: Browser) -> None:
    answer = await browser.get("/services", **{"HX-Request": "true"})
    assert (answer.status, answer.headers["HX-Refresh"], answer.text) == (200, "true", "")


ELSEWHERE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


async def test_link_of_another_site_does_not_end_the_session(browser: Browser) -> None:
    assert await sign_in(browser, token()) == 303
    session = browser.jar["console-id"]
    browser.session.cookie_jar.clear()  # the browser does not send it along
    arrived = await browser.get("/services?a=1&b=2", **ELSEWHERE)
    assert arrived.status == 200
    assert arrived.has('http-equiv="refresh" content="0; url=/services?a=1&amp;b=2"')
    assert "Set-Cookie" not in arrived.headers
    shown = await browser.get("/services", Cookie=f"console-id={session}", **{"Sec-Fetch-Site": "same-origin"})
    assert shown.has("Signed in as alice")


async def test_link_of_another_site_leads_to_no_third_one(browser: Browser) -> None:
    reader, writer = await asyncio.open_connection(*browser.url.removeprefix("http://").split(":"))
    lines = ["GET //evil.example.net/x HTTP/1.1", f"Host: {browser.url.removeprefix('http://')}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in ELSEWHERE.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    answer = (await reader.read()).decode()
    writer.close()
    assert 'content="0; url=/"' in answer
    assert "evil" not in answer


async def test_signing_out_ends_the_session_at_the_server(browser: Browser) -> None:
    assert await sign_in(browser, token()) == 303
    session = browser.jar["console-id"]
    assert (await browser.submit("/", "/sign-out")).headers["Location"] == "/sign-in"
    browser.session.cookie_jar.clear()
    assert (await browser.get("/", Cookie=f"console-id={session}")).status == 303


async def test_stream_ends_with_its_session(browser: Browser) -> None:
    assert await sign_in(browser, token()) == 303
    sampler = browser.parts.sampler
    async with browser.session.get(f"{browser.url}/live/stream") as response, asyncio.timeout(10):
        await response.content.readuntil(b"event: all")
        await sampler.round()
        await response.content.readuntil(b"event: point")
        await browser.submit("/", "/sign-out")
        await sampler.round()
        assert b"event: point" not in await response.content.read()


async def test_token_without_the_scope_shows_no_page_and_no_figures(browser: Browser) -> None:
    assert await sign_in(browser, token(scope="orders:read")) == 303
    answer = await browser.get("/")
    assert answer.status == 403
    assert "it needs the scope ops:read" in answer.text
    assert 'href="/services"' not in answer.text
    assert (await browser.get("/live/stream")).status == 403


@pytest.mark.parametrize("path", ["/", "/services", "/live/stream"])
async def test_nothing_is_shown_to_strangers(browser: Browser, path: str) -> None:
    assert (await browser.get(path)).status == 303
    assert (await browser.get(path, Authorization=f"Bearer {token()}")).status == 303  # cookies only
    assert (await browser.get(path, Cookie="console-id=made-up")).status == 303


async def test_sign_in_form_of_another_site_is_refused(browser: Browser) -> None:
    form = {"access_token": token()}
    assert (await browser.post("/sign-in", form)).status == 403
    assert (await browser.post("/sign-in", form, Origin="https://evil.example.net")).status == 403


async def test_without_the_issuers_keys_it_is_not_ready_and_says_so() -> None:
    async def fail() -> bytes:
        raise OSError("no issuer")

    async with IssuerKeys(fail) as keys, console(JwtAuthenticator(RULES, keys), auth_mode="jwt") as browser:
        assert (await browser.get("/readyz")).status == 503
        assert (await browser.get("/livez")).status == 200  # a restart would not bring the keys
        answer = await browser.submit("/sign-in", "/sign-in", access_token=token())
        assert answer.status == 503
        assert "keys can&#39;t be read" in answer.text


async def test_in_open_mode_there_is_nothing_to_sign_in_to() -> None:
    async with console() as browser:
        assert (await browser.get("/sign-in?next=/services")).headers["Location"] == "/services"
        assert (await browser.submit("/", "/sign-in", access_token="x")).headers["Location"] == "/"
        assert "Open mode" in (await browser.get("/")).text
