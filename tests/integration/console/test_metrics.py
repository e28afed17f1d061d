"""The console's own metrics: where they are served, and that they are right."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from deploy.console.__main__ import serve
from deploy.console.metrics import watch
from deploy.console.settings import ConsoleSettings
from shared.identity.authenticator import JwtAuthenticator
from shared.identity.keys import IssuerKeys
from tests.infrastructure.issuer import RULES
from tests.infrastructure.waiting import eventually, free_ports
from tests.integration.console.serving import NOWHERE, Answer, console, visiting
from tests.integration.console.test_sign_in import read_keys, sign_in, token

SECONDS = 10.0
# As Prometheus knows the console. A browser sends the name that its address bar shows.
BY_ADDRESS = {"Host": "10.0.0.7:8120"}


def values(answer: Answer) -> Mapping[str, float]:
    """Return the metrics by name and labels."""
    assert answer.status == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", answer.text, re.M)}


def answers(found: Mapping[str, float], method: str, route: str, status: int) -> float:
    """Return how many requests were answered so."""
    return found.get(f'http_responses_total{{method="{method}",route="{route}",status="{status}"}}', 0.0)


async def test_metrics_in_open_mode_are_beside_the_pages() -> None:
    async with console(streams_max=7) as browser:
        watch(browser.parts)
        before = values(await browser.get("/metrics", **BY_ADDRESS))
        await browser.get("/sagas/no-id")
        await browser.get("/preferences")
        found = values(await browser.get("/metrics", **BY_ADDRESS))
        assert (found["console_streams"], found["console_streams_max"], found["console_sessions"]) == (0, 7, 0)
        assert found['http_connections_open{listener="console"}'] == 1
        # No client chooses a label.
        assert answers(found, "other", "unknown", 404) == answers(before, "other", "unknown", 404) + 1
        assert answers(found, "other", "unknown", 405) == answers(before, "other", "unknown", 405) + 1
        assert answers(found, "GET", "/metrics", 200) == answers(before, "GET", "/metrics", 200) + 1
        chosen = await browser.get("/metrics?name[]=console_streams_max", **BY_ADDRESS)
        assert list(values(chosen)) == ["console_streams_max"]


async def test_streams_count_while_they_are_open_and_have_no_time() -> None:
    async with console() as browser:
        watch(browser.parts)
        await browser.parts.sampler.round()
        async with browser.session.get(f"{browser.url}/live/stream") as stream:
            await stream.content.readline()
            found = values(await browser.get("/metrics"))
            assert found["console_streams"] == 1
            assert found["http_server_active_requests"] == 2  # itself and the stream
            # No service answers.
            assert found['console_replicas{service="order",state="away"}'] == 1
            assert found['console_replicas{service="order",state="read"}'] == 0
            browser.parts.sampler.close()
            await stream.read()

        async def closed() -> bool:
            return values(await browser.get("/metrics"))["console_streams"] == 0

        await eventually(closed, SECONDS, "the end of the stream")
        assert answers(values(await browser.get("/metrics")), "GET", "/live/stream", 200) == 0


async def test_with_identity_on_no_metrics_are_beside_the_pages() -> None:
    async with IssuerKeys(read_keys) as keys, console(JwtAuthenticator(RULES, keys), auth_mode="jwt") as browser:
        watch(browser.parts)
        assert (await browser.get("/metrics")).status == 404
        assert (await browser.get("/metrics", **BY_ADDRESS)).status == 421
        assert await sign_in(browser, token()) == 303
        assert browser.parts.sessions.count == 1
        assert (await browser.get("/metrics")).status == 404


async def test_internal_port_has_metrics_and_probes_and_no_page() -> None:
    port, internal_port = free_ports(2)
    places = dict.fromkeys(("order_url", "relay_url", "order_admin_url", "relay_admin_url"), NOWHERE)
    replicas = {f"{service}_replicas": NOWHERE for service in ("order", "product", "coupon", "balance", "relay")}
    given: dict[str, Any] = {"port": port, "internal_port": internal_port, **places, **replicas}
    settings = ConsoleSettings(auth_mode="open", **given)
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(settings, stop))
    async with (
        visiting(f"http://127.0.0.1:{internal_port}") as prometheus,
        visiting(f"http://127.0.0.1:{port}") as browser,
    ):

        async def serves() -> bool:
            assert not serving.done(), serving.result()
            try:
                return (await prometheus.get("/readyz", **BY_ADDRESS)).status == 200
            except OSError:
                return False

        await eventually(serves, SECONDS, "the console")
        assert (await prometheus.get("/livez")).status == 200
        found = values(await prometheus.get("/metrics", **BY_ADDRESS))
        assert found['http_connections_max{listener="console internal"}'] > 0
        assert [(await prometheus.get(path)).status for path in ("/", "/sign-in", "/static/0/console.css")] == [404] * 3
        assert ((await browser.get("/")).status, (await browser.get("/metrics")).status) == (200, 404)
    stop.set()
    await serving
