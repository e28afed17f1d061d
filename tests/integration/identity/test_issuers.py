"""Whatever the issuer's address answers, or doesn't: services keep the keys that they have, and wait for a bounded
time."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from shared.identity import keys
from shared.identity.keys import (
    DOCUMENT_MAX,
    LOOK_SECONDS,
    REFRESH_SECONDS,
    STALE_SECONDS,
    IssuerKeys,
    NoKeys,
    from_url,
)
from tests.infrastructure.issuer import EC, RSA, jwk_set
from tests.infrastructure.waiting import eventually

WAIT_SECONDS = 0.2
KEYS = jwk_set(RSA)
BOMB = gzip.compress(b" " * 10_000_000 + KEYS)


class Issuer:
    """An HTTP server whose answers tests choose by name; `asked` counts the requests for each path."""

    def __init__(self) -> None:
        self.answer = "keys"
        self.asked: dict[str, int] = {}
        self.over = asyncio.Event()

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Answer as the test has chosen."""
        self.asked[request.path] = self.asked.get(request.path, 0) + 1
        match self.answer:
            case "keys":
                return web.Response(body=KEYS)
            case "redirect":
                raise web.HTTPFound("/elsewhere")
            case "large":
                return web.Response(body=b" " * 10_000_000 + KEYS)
            case "bomb":
                return web.Response(body=BOMB, headers={"Content-Encoding": "gzip"})
            case "hang":
                await self.over.wait()
            case "drip":
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    await response.write(b" ")
                    await asyncio.sleep(WAIT_SECONDS / 10)
            case "cut":
                assert request.transport is not None
                request.transport.close()
        return web.Response(text="<html>maintenance</html>", status=200 if self.answer == "html" else 503)


@asynccontextmanager
async def served(issuer: Issuer) -> AsyncIterator[str]:
    """Serve the issuer; yield its address."""
    application = web.Application()
    application.router.add_get("/{path}", issuer.respond)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    finally:
        issuer.over.set()
        await runner.cleanup()


@pytest.mark.parametrize("answer", ["redirect", "large", "bomb", "hang", "drip", "cut", "html", "failure"])
async def test_issuer_that_misbehaves_keeps_its_keys_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(keys, "FETCH_SECONDS", WAIT_SECONDS)
    issuer, now = Issuer(), 0.0
    async with (
        served(issuer) as url,
        aiohttp.ClientSession() as session,
        IssuerKeys(from_url(session, url), lambda: now) as known,
    ):
        assert set(await known.current()) == {"rsa"}
        issuer.answer = answer
        now = REFRESH_SECONDS + 1
        assert set(await known.current()) == {"rsa"}  # at once
        began = time.monotonic()
        now += LOOK_SECONDS
        with pytest.raises(NoKeys):
            await known.current("unknown")
        assert set(await known.current("rsa")) == {"rsa"}
        now = STALE_SECONDS + 1
        with pytest.raises(NoKeys):
            await known.current()
        assert time.monotonic() - began < 20 * WAIT_SECONDS
        issuer.answer = "keys"
        now += LOOK_SECONDS
        assert set(await known.current()) == {"rsa"}
    assert "/elsewhere" not in issuer.asked
    assert issuer.asked["/jwks"] <= 2 * 5  # the client repeats a request whose connection was closed


async def test_keys_that_no_caller_needs_are_read_again_for_their_metric() -> None:
    issuer, now = Issuer(), 0.0
    async with (
        served(issuer) as url,
        aiohttp.ClientSession() as session,
        IssuerKeys(from_url(session, url), lambda: now) as known,
    ):
        await known.current()
        now = REFRESH_SECONDS + 1

        async def age() -> bool:
            return REGISTRY.get_sample_value("issuer_keys_age_seconds") == 0

        await eventually(age, 10, "keys that were read again")


async def test_issuer_that_nobody_answers_for_is_closed() -> None:
    async with aiohttp.ClientSession() as session, IssuerKeys(from_url(session, "http://127.0.0.1:1/jwks")) as known:
        with pytest.raises(NoKeys):
            await known.current()


async def test_largest_key_set_is_read_whole() -> None:
    class Large(Issuer):
        async def respond(self, request: web.Request) -> web.StreamResponse:
            assert request.path == "/jwks"
            document = jwk_set(RSA, EC)
            return web.Response(body=b" " * (DOCUMENT_MAX - len(document)) + document)

    async with (
        served(Large()) as url,
        aiohttp.ClientSession() as session,
        IssuerKeys(from_url(session, url)) as known,
    ):
        assert set(await known.current()) == {"rsa", "ec"}
