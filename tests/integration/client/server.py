"""A server that does, one request after the other, what a test tells it: answer, hang, break off."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """A request that has arrived."""

    at: float
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Server:
    """Does the acts in turn. A request beyond them fails the test. `received`: the requests so far."""

    url: str = ""
    acts: list[Act] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)

    def will(self, *acts: Act) -> None:
        """Set what to do with the next requests."""
        self.acts += acts

    @property
    def keys(self) -> list[str | None]:
        """Return the idempotency keys so far."""
        return [one.headers.get("Idempotency-Key") for one in self.received]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Do the next act."""
        body = await request.read()
        at = asyncio.get_running_loop().time()
        self.received.append(Received(at, request.method, request.raw_path, request.headers.copy(), body))
        assert self.acts, f"one more {request.method} {request.path} than expected"
        return await self.acts.pop(0)(request)


@asynccontextmanager
async def misbehaving() -> AsyncIterator[Server]:
    """Serve until the body ends. All acts must have been done by then."""
    server, app = Server(), web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(app) as serving:
        server.url = str(serving.make_url("/")).rstrip("/")
        yield server
    assert not server.acts


def answer(status: int, body: Any, **headers: str) -> Act:
    """Answer with JSON."""

    async def act(_request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=named)

    return act


def refuse(status: int, slug: str, members: Mapping[str, Any] | None = None, **headers: str) -> Act:
    """Answer with a problem."""

    async def act(request: web.Request) -> web.StreamResponse:
        body = {"type": f"/problems/{slug}", "title": slug, "status": status, "detail": "", "instance": request.path}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(
            text=json.dumps(body | dict(members or {})),
            status=status,
            headers=named,
            content_type="application/problem+json",
        )

    return act


def say(status: int, text: str, content_type: str = "text/html") -> Act:
    """Answer with something that is none of the services'."""

    async def act(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, status=status, content_type=content_type)

    return act


async def break_off(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off_midway(request: web.Request) -> web.StreamResponse:
    """Close the connection in the middle of the answer."""
    response = web.StreamResponse(status=200, headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"order_id"')
    assert request.transport is not None
    request.transport.abort()
    return response


def hang(seconds: float) -> Act:
    """Answer nothing for a time that is longer than an attempt of the client's."""

    async def act(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return web.Response()

    return act
