"""Serves a service's routes: observation, health, error shape, limits on slow clients and a bounded stop."""

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import orjson
import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

from shared import trace
from shared.http import openapi, problems
from shared.http.routes import Route
from shared.refusals import Unavailable
from shared.settings import ServiceSettings, fail

log = structlog.get_logger()

VERSION = "0.1.0"
BACKLOG = 1024  # connections that may wait to be accepted while a burst arrives
# Connections that are served at a time; each holds some 30 KB, and a file, of which the system gives so many. Some are
# left for the database, for participants and logs.
CONNECTIONS_MAX = max(64, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 128))
# A refusal for overload is logged once in so long, or the log would be the next thing to overflow.
OVERLOAD_LOG_SECONDS = 1.0
READY_TIMEOUT_SECONDS = 2.0
SECONDS = Histogram(
    "http_request_seconds",
    "Time to answer",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
RESPONSES = Counter("http_responses_total", "Responses by status", ["method", "route", "status"])
TURNED_AWAY = Counter("http_connections_refused_total", "Connections refused because there were too many")
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests being handled")

Check = Callable[[], Awaitable[None]]


class HttpServer:
    """One listener with a service's routes.

    `checks` are asked by /readyz, by name; a check raises when the service can't serve without what it asks.
    `details` adds facts to /readyz that don't decide it.
    """

    _in_flight = 0  # of all servers of this process

    def __init__(
        self,
        service: str,
        description: str,
        settings: ServiceSettings,
        routes: Sequence[Route],
        checks: Mapping[str, Check],
        details: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        IN_FLIGHT.set_function(lambda: HttpServer._in_flight)
        self._settings = settings
        self._checks = checks
        self._details = details
        self._stopping = False
        self._overload_logged_at = float("-inf")
        spec = openapi.document(service, VERSION, description, routes)
        self._spec = orjson.dumps(spec)
        self._page = openapi.page(spec)
        # Paths without parameters are looked up at once: the router costs as much as reading the request.
        self._direct = {(route.method, route.path): route for route in routes if "{" not in route.path}
        self._app = web.Application()
        for route in routes:
            self._app.router.add_route(route.method, route.path, route.handler, expect_handler=_expect)
        for path, handler in {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/docs": self._docs,
        }.items():
            self._app.router.add_get(path, handler)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then turn unready, refuse new connections and finish what is in flight."""
        options = {
            "access_log": None,
            "auto_decompress": False,  # an encoded body is refused, so a small one can't become a huge one
            "keepalive_timeout": self._settings.client_timeout_seconds * 2,
            "lingering_time": 1.0,
        }
        runner = web.AppRunner(self._app, handle_signals=False)
        await runner.setup()
        server = runner.server
        assert server is not None
        router = server.request_handler

        async def handle(request: Any) -> Any:
            return await self._observe(request, router)

        server.request_handler = handle
        loop = asyncio.get_running_loop()
        user_timeout = self._settings.client_timeout_seconds
        room = _Room()

        def accept() -> asyncio.Protocol:
            if room.taken >= CONNECTIONS_MAX:
                return _TurnedAway()
            return _Connection(server, user_timeout, room, loop=loop, **options)

        try:
            listener = await loop.create_server(
                accept,
                self._settings.host,
                self._settings.port,
                backlog=BACKLOG,
            )
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            fail(f"cannot listen on {self._settings.host}:{self._settings.port}: {error.strerror}")
        log.info("serving", host=self._settings.host, port=self._settings.port)
        await stop.wait()
        self._stopping = True
        listener.close()
        server.pre_shutdown()
        await server.shutdown(self._settings.shutdown_seconds)
        await runner.cleanup()

    async def _observe(self, request: web.Request, router: Callable[[Any], Awaitable[Any]]) -> web.StreamResponse:
        started = time.perf_counter()
        mark = trace.take_over(request.headers)
        trace.current.set(mark)
        direct = self._direct.get((request.method, request.rel_url.raw_path))
        if direct is not None and "Expect" in request.headers:
            direct = None
        HttpServer._in_flight += 1
        try:
            response = await self._handle(request, router if direct is None else direct.handler)
        finally:
            HttpServer._in_flight -= 1
        response.headers.update(mark.headers())
        if self._stopping:
            response.force_close()
        route = _route_of(request) if direct is None else direct.path
        method = request.method if route != "unknown" else "other"  # a label must not be the client's to choose
        seconds = time.perf_counter() - started
        _seconds(method, route).observe(seconds)
        _responses(method, route, response.status).inc()
        if self._is_logged(response.status):
            log.info(
                "answered",
                method=method,
                path=request.path,
                status=response.status,
                seconds=round(seconds, 4),
            )
        return response

    def _is_logged(self, status: int) -> bool:
        if self._settings.access_log == "errors" and status == 503:
            now = time.monotonic()
            if now - self._overload_logged_at < OVERLOAD_LOG_SECONDS:
                return False
            self._overload_logged_at = now
        return self._settings.access_log == "all" or (self._settings.access_log == "errors" and status >= 500)

    async def _handle(self, request: web.Request, router: Callable[[Any], Awaitable[Any]]) -> web.StreamResponse:
        try:
            result: web.StreamResponse = await router(request)
            return result
        except asyncio.CancelledError:
            raise
        except Exception as error:
            response = problems.respond(error, request.path)
            if response is None:
                log.exception("bug", method=request.method, path=request.path)
                return problems.bug(request.path)
            if response.status in (408, 413):
                response.force_close()  # the rest of the body is not worth reading
            return response

    async def _livez(self, _request: web.Request) -> web.Response:
        return reply({"status": "alive"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        names = list(self._checks)
        results = await asyncio.gather(*(_ask(self._checks[name]) for name in names))
        checks = dict(zip(names, results, strict=True))
        if self._stopping:
            checks["process"] = "is stopping"
        ready = all(result == "ok" for result in checks.values())
        body = {"status": "ready" if ready else "not ready", "checks": checks, **self._details()}
        return reply(body, 200 if ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._spec, content_type="application/json")

    async def _docs(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html")


# Looking a metric up by its labels takes longer than counting. The labels are of our choosing, so few.
@cache
def _seconds(method: str, route: str) -> Histogram:
    return SECONDS.labels(method, route)


@cache
def _responses(method: str, route: str, status: int) -> Counter:
    return RESPONSES.labels(method, route, str(status))


class _Room:
    """How many connections are open."""

    taken = 0


_TOO_MANY = problems.encode(503, Unavailable.slug, problems.UNAVAILABLE, "Too many connections are open.", "")
_TOO_MANY_HEAD = (
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    f"Content-Type: {problems.CONTENT_TYPE}\r\nContent-Length: {len(_TOO_MANY)}\r\n\r\n"
)
_TOO_MANY_ANSWER = _TOO_MANY_HEAD.encode() + _TOO_MANY


class _TurnedAway(asyncio.Protocol):
    """A connection too many: told so, and closed, before anything is read from it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        TURNED_AWAY.inc()
        writing = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class
        writing.write(_TOO_MANY_ANSWER)
        writing.close()


class _Connection(RequestHandler):
    """A client's connection: answers bytes that aren't HTTP with a problem and cuts off who doesn't read.

    Who doesn't send is cut off by the keep-alive timer (headers) and by read_body (bodies).
    """

    __slots__ = ("_room", "_user_timeout_seconds")

    def __init__(self, manager: web.Server, user_timeout_seconds: float, room: _Room, **options: Any) -> None:
        super().__init__(manager, **options)
        self._user_timeout_seconds = user_timeout_seconds
        self._room = room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._room.taken += 1
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._user_timeout_seconds * 1000))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._room.taken -= 1
        super().connection_lost(exc)

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, _message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500:
            log.error("bug", path=request.path, error=repr(exc))
            return problems.bug(request.path)
        return problems.bad_http(status)


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON response; moments are RFC 3339 in UTC."""
    return web.Response(body=encode(body), status=status, headers=headers, content_type="application/json")


def encode(body: Any) -> bytes:
    """Return the JSON of a body. asyncpg's UUIDs are a subclass, which orjson knows only as text."""
    return orjson.dumps(body, default=str, option=orjson.OPT_UTC_Z)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    if request.headers.get("Expect", "").lower() != "100-continue":
        raise web.HTTPExpectationFailed
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0
    return None


async def _ask(check: Check) -> str:
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            await check()
    except Exception as error:  # noqa: BLE001 - whatever a check raises is its answer
        return f"{type(error).__name__}: {error}"[:300]
    return "ok"


def _route_of(request: web.Request) -> str:
    try:
        resource = request.match_info.route.resource
    except AssertionError:  # the path was refused before it was looked up
        return "unknown"
    return "unknown" if resource is None else resource.canonical
