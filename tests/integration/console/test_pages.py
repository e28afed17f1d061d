"""What every page of the console has, and what it refuses."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from deploy.console.__main__ import PAGES
from shared.process.tasks import essentials
from tests.infrastructure.waiting import free_port
from tests.integration.console.serving import Browser, console

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with console() as found:
        yield found


async def test_every_page_is_shown_while_no_service_answers(browser: Browser) -> None:
    await browser.parts.sampler.round()
    for page in PAGES:
        answer = await browser.get(page.path)
        assert answer.status in (200, 502), (page.name, answer.text)
        assert answer.has("<h1>", 'id="content"')


async def test_replica_where_something_else_answers_is_shown_as_away() -> None:
    strange = (
        *("", "<html>", "null", "[]", '"ready"', "{}", '{"checks": []}', '{"checks": {}, "shards": [1]}'),
        '{"checks": {}, "shards": {"first": "held"}}',
    )

    async def ready(request: web.Request) -> web.Response:
        return web.Response(text=strange[int(request.match_info["number"])])

    app = web.Application()
    app.router.add_get("/{number}/readyz", ready)
    runner, port = web.AppRunner(app, access_log=None), free_port()
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        urls = " ".join(f"http://127.0.0.1:{port}/{number}" for number in range(len(strange)))
        async with console(relay_replicas=urls) as browser:
            answer = await browser.get("/services")
            assert answer.status == 200
            assert answer.text.count('class="state away"') == len(browser.parts.sampler.replicas)
    finally:
        await runner.cleanup()


async def test_headers_of_every_answer_forbid_what_no_page_needs(browser: Browser) -> None:
    for path in ("/", "/services", "/no-such-page", "/static/0/console.css", "/sign-in"):
        headers = (await browser.get(path)).headers
        assert headers["Content-Security-Policy"] == POLICY
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
    assert "unsafe" not in POLICY


async def test_page_loads_only_files_of_the_console_which_are_cached(browser: Browser) -> None:
    text = (await browser.get("/")).text
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', text)
    assert {path.rpartition("/")[2] for path in loaded} >= {"console.css", "live.js", "uPlot.iife.min.js"}
    for path in loaded:
        answer = await browser.get(path)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Content-Security-Policy"] == POLICY


@pytest.mark.parametrize(
    "path", ["/static/x/RECORD.toml", "/static/../settings.py", "/static/x/console.css", "/nothing"]
)
async def test_other_paths_are_a_page_with_status_404(browser: Browser, path: str) -> None:
    answer = await browser.get(path)
    assert answer.status == 404
    assert "There is no such page." in answer.text


async def test_method_that_is_not_for_a_page_is_refused(browser: Browser) -> None:
    answer = await browser.post("/services")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET"


async def test_cookie_is_for_the_consoles_own_pages_only(browser: Browser) -> None:
    first = await browser.get("/")
    assert re.fullmatch(r"console-id=[\w-]{43}; HttpOnly; Path=/; SameSite=Strict", first.headers["Set-Cookie"])
    assert "Set-Cookie" not in (await browser.get("/")).headers


async def test_cookie_is_bound_to_the_host_where_browsers_use_tls() -> None:
    async with console(origin="https://console.test") as browser:
        answer = await browser.get("/", Host="console.test")
        cookie = answer.headers["Set-Cookie"]
        assert re.fullmatch(r"__Host-console-id=[\w-]{43}; HttpOnly; Path=/; SameSite=Strict; Secure", cookie)


async def test_foreign_host_is_refused_without_a_page_or_a_cookie(browser: Browser) -> None:
    answer = await browser.get("/", Host="rebound.example.net")
    assert answer.status == 421
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "Set-Cookie" not in answer.headers


async def test_preferences_are_kept(browser: Browser) -> None:
    answer = await browser.submit("/", "/preferences", theme="dark", next="/services")
    assert (answer.status, answer.headers["Location"]) == (303, "/services")
    await browser.submit("/", "/preferences", language="ko", next="https://evil.example.net/")
    assert (await browser.get("/")).has('data-theme="dark"', 'lang="ko"', "<h1>실시간</h1>")


@pytest.mark.parametrize(
    "next_", ["https://evil.example.net", "//evil.example.net", "/\\evil.example.net", "x", "/\u00e9"]
)
async def test_form_leads_to_no_other_site(browser: Browser, next_: str) -> None:
    assert (await browser.submit("/", "/preferences", next=next_)).headers["Location"] == "/"


async def test_unknown_preferences_are_ignored(browser: Browser) -> None:
    await browser.submit("/", "/preferences", theme="<script>", language="xx")
    assert (await browser.get("/")).has('data-theme="auto"', 'lang="en"')


async def test_language_follows_the_browser(browser: Browser) -> None:
    assert (await browser.get("/", **{"Accept-Language": "ko-KR,ko;q=0.9"})).has('<html lang="ko"')


async def test_form_without_its_token_is_refused(browser: Browser) -> None:
    await browser.get("/")
    assert (await browser.post("/preferences", {"theme": "dark"})).status == 403
    wrong = await browser.post("/preferences", {"theme": "dark", "form_token": "0" * 64})
    assert wrong.status == 403
    assert "too old" in wrong.text
    assert (await browser.get("/")).has('data-theme="auto"')


async def test_form_token_of_another_visitor_is_refused(browser: Browser) -> None:
    token = browser.parts.sessions.form_token("another")
    await browser.get("/")
    assert (await browser.post("/preferences", {"form_token": token})).status == 403


async def test_form_with_a_token_but_without_the_cookie_is_refused(browser: Browser) -> None:
    text = (await browser.get("/")).text
    token = re.findall(r'name="form_token" value="([0-9a-f]+)"', text)[0]
    browser.session.cookie_jar.clear()
    assert (await browser.post("/preferences", {"form_token": token})).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example.net"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_form_of_another_site_is_refused_also_with_its_token(browser: Browser, headers: dict[str, str]) -> None:
    text = (await browser.get("/")).text
    token = re.findall(r'name="form_token" value="([0-9a-f]+)"', text)[0]
    answer = await browser.post("/preferences", {"form_token": token, "theme": "dark"}, **headers)
    assert answer.status == 403
    assert (await browser.get("/")).has('data-theme="auto"')


async def test_form_that_is_too_large_is_refused(browser: Browser) -> None:
    assert (await browser.submit("/", "/preferences", next="/" + "x" * 70_000)).status == 413


FORM_TYPE = b"Content-Type: application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("method", "headers", "body", "status"),
    [
        pytest.param(b"GET", b"Cookie: console-id=\xff", b"", 200, id="cookie: no text"),
        pytest.param(b"GET", b"Cookie: console-by=\xff; console-theme=\xff", b"", 200, id="other cookies"),
        pytest.param(b"GET", b"Accept-Language: \xff", b"", 200, id="language"),
        pytest.param(b"POST", FORM_TYPE + b"\r\nCookie: console-id=\xff", b"a=b", 403, id="form with such a cookie"),
        pytest.param(b"POST", FORM_TYPE, b"a=\xff\xfe", 400, id="form: no text"),
        pytest.param(b"POST", FORM_TYPE + b"; charset=x", b"a=b", 400, id="form: no such charset"),
        pytest.param(b"POST", b"Content-Type: multipart/form-data", b"a=b", 400, id="form: no boundary"),
        pytest.param(b"POST", b"Content-Type: multipart/form-data; boundary=x", b"a=b", 400, id="form: no parts"),
    ],
)
async def test_what_no_browser_sends_is_no_bug_of_ours(
    browser: Browser, method: bytes, headers: bytes, body: bytes, status: int
) -> None:
    host = browser.url.removeprefix("http://").encode()
    path = b"/" if method == b"GET" else b"/preferences"
    own = b"Host: %b\r\nOrigin: http://%b\r\nConnection: close\r\nContent-Length: %d" % (host, host, len(body))
    reader, writer = await asyncio.open_connection("127.0.0.1", browser.parts.settings.port)
    writer.write(b"%b %b HTTP/1.1\r\n%b\r\n%b\r\n\r\n%b" % (method, path, own, headers, body))
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Security-Policy: default-src 'none'" in answer


async def test_probe_is_answered_under_any_host(browser: Browser) -> None:
    answer = await browser.get("/readyz", Host="10.0.0.7:8020")
    assert (answer.status, answer.text) == (200, '{"status": "ready"}')
    answer = await browser.get("/livez", Host="10.0.0.7:8020")
    assert (answer.status, answer.text) == (200, '{"status": "alive"}')


async def test_process_that_is_about_to_end_is_not_alive(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(essentials, "dead", ["figures"])
    assert (await browser.get("/livez")).status == 503
