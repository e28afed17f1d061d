"""Serves a service's routes: observation, health, error shape, limits on slow clients and a bounded stop."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

from shared import trace
from shared.background import dead_tasks
from shared.encoding import encode
from shared.exits import Exit, end
from shared.http import openapi, problems
from shared.http.connection import (
    CONNECTIONS_MAX,
    AdmissionGate,
    Connection,
    ConnectionLimit,
    RejectedConnection,
    unavailable,
)
from shared.http.deadline import Deadlines
from shared.http.problems import RequestTimeout
from shared.http.readiness import Check, Readiness
from shared.http.routes import Route
from shared.http.wire import expects_continue
from shared.refusals import Unavailable
from shared.settings import ServiceSettings

log = structlog.get_logger()

VERSION = "0.1.0"
# Connections that may wait to be accepted while a burst arrives: all that are served. Those beyond it would not be told
# so, but try again after seconds.
BACKLOG = CONNECTIONS_MAX
# A listener of uvloop takes one connection each time the loop turns, and beyond capacity a turn takes milliseconds: who
# comes in a burst would wait for seconds. So the socket has several listeners.
ACCEPTED_AT_ONCE = 16
# A refusal for overload is logged once in so long, or the log would be the next thing to overflow.
OVERLOAD_LOG_SECONDS = 1.0
SECONDS = Histogram(
    "http_request_seconds",
    "Time to answer",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
RESPONSES = Counter("http_responses_total", "Responses by status", ["method", "route", "status"])
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests being handled")

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
        self._readiness = Readiness(checks)
        self._deadlines = Deadlines()
        self._details = details
        self._stopping = False
        self._overload_logged_at = float("-inf")
        spec = openapi.document(service, VERSION, description, routes)
        self._spec = encode(spec)
        self._page = openapi.page(spec)
        # Paths without parameters are looked up at once: the router costs as much as reading the request.
        self._direct: dict[tuple[str, str], Route] = {}
        self._app = web.Application()
        for route in routes:
            # HEAD is answered as GET: the library leaves the body out.
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                self._app.router.add_route(method, _pattern(route.path), route.handler)
                if "{" not in route.path:
                    self._direct[method, route.path] = route
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
        server.request_handler = self._observe
        loop = asyncio.get_running_loop()
        user_timeout = self._settings.client_timeout_seconds
        limit = ConnectionLimit()
        gates = {
            place: AdmissionGate(partial(self._reject, route))
            for place, route in self._direct.items()
            if route.check_capacity
        }

        def accept() -> asyncio.Protocol:
            if limit.full:
                return RejectedConnection()
            return Connection(server, user_timeout, limit, gates, loop=loop, **options)

        try:
            listener = await loop.create_server(accept, self._settings.host, self._settings.port, backlog=BACKLOG)
            copies = [socket.socket(fileno=os.dup(one.fileno())) for one in listener.sockets * (ACCEPTED_AT_ONCE - 1)]
            listeners = [listener, *[await loop.create_server(accept, sock=copy, backlog=BACKLOG) for copy in copies]]
        except OSError as error:
            end(Exit.CANNOT_LISTEN, f"cannot listen on {self._settings.host}:{self._settings.port}: {error.strerror}")
        log.info("serving", host=self._settings.host, port=self._settings.port)
        async with self._deadlines.watched():
            await stop.wait()
            self._stopping = True
            for listener in listeners:
                listener.close()
            server.pre_shutdown()
            await server.shutdown(self._settings.shutdown_seconds)
            await runner.cleanup()

    async def _observe(self, request: Any) -> web.StreamResponse:
        started = time.perf_counter()
        mark = trace.take_over(request.headers)
        trace.current.set(mark)
        direct = self._direct.get((request.method, request.rel_url.raw_path))
        deadline_seconds = (direct and direct.deadline_seconds) or self._settings.request_deadline_seconds
        HttpServer._in_flight += 1
        try:
            handler = self._route if direct is None else direct.handler
            response = await self._handle(request, handler, deadline_seconds)
        finally:
            HttpServer._in_flight -= 1
        response.headers.update(mark.headers())
        if self._stopping or request.protocol.is_last(request) or _leaves_body(request):
            response.force_close()
        route = _route_of(request) if direct is None else direct.path
        method = request.method if route != "unknown" else "other"  # a label must not be the client's to choose
        self._take_note(mark, method, route, request.rel_url.raw_path, response.status, time.perf_counter() - started)
        return response

    def _reject(self, route: Route, message: RawRequestMessage, pending: int) -> bytes | None:
        """Return the answer to a request for which there is no capacity, None for one to handle."""
        if self._stopping or "Expect" in message.headers:
            return None
        started = time.perf_counter()
        try:
            assert route.check_capacity is not None
            route.check_capacity(pending)
        except Unavailable as error:
            mark = trace.take_over(message.headers)
            answer = unavailable(error, route.path, mark.headers())
            self._take_note(mark, route.method, route.path, route.path, 503, time.perf_counter() - started)
            return answer
        return None

    def _take_note(self, mark: trace.Trace, method: str, route: str, path: str, status: int, seconds: float) -> None:
        """Measure an answer, and log it if it is to be."""
        _seconds(method, route).observe(seconds)
        _responses(method, route, status).inc()
        if self._is_logged(status):
            # A rejected request has no task and so no context of its own: its trace is passed here.
            known = {"request_id": mark.request_id, "trace_id": mark.trace_id}
            log.info("answered", method=method, path=path, status=status, seconds=round(seconds, 4), **known)

    def _is_logged(self, status: int) -> bool:
        if self._settings.access_log == "errors" and status == 503:
            now = time.monotonic()
            if now - self._overload_logged_at < OVERLOAD_LOG_SECONDS:
                return False
            self._overload_logged_at = now
        return self._settings.access_log == "all" or (self._settings.access_log == "errors" and status >= 500)

    async def _route(self, request: web.Request) -> web.StreamResponse:
        """Handle a request to a path that isn't looked up directly.

        The library's own way answers every expectation itself, and sends 100 also to who is refused right after.
        """
        match = await self._app.router.resolve(request)
        match.add_app(self._app)
        match.freeze()
        request._match_info = match  # noqa: SLF001
        return await match.handler(request)

    async def _handle(self, request: web.Request, handler: Handle, deadline_seconds: float) -> web.StreamResponse:
        cut_off = False
        task = self._deadlines.begin(deadline_seconds)
        try:
            try:
                if "Expect" in request.headers:
                    expects_continue(request)
                return await handler(request)
            finally:
                cut_off = self._deadlines.end(task)
        except asyncio.CancelledError:
            if not cut_off:
                raise
            late: Exception = Unavailable("The request took too long.")
            return self._problem(request, late if request.content.is_eof() else RequestTimeout())
        except Exception as error:  # noqa: BLE001 - every failure becomes an answer
            return self._problem(request, error)

    def _problem(self, request: web.Request, error: Exception) -> web.StreamResponse:
        response = problems.respond(error, problems.instance(request))
        if response is None:
            log.exception("bug", method=request.method, path=request.rel_url.raw_path)
            return problems.bug(problems.instance(request))
        if response.status in (408, 413):
            response.force_close()  # the rest of the body is not worth reading
        return response

    async def _livez(self, _request: web.Request) -> web.Response:
        dead = dead_tasks()
        return reply({"status": "not alive", "dead": dead}, 503) if dead else reply({"status": "alive"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        checks = await self._readiness.ask()
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


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON response; timestamps are RFC 3339 in UTC."""
    return web.Response(body=encode(body), status=status, headers=headers, content_type="application/json")


def _leaves_body(request: web.Request) -> bool:
    """Say whether the client may still send a body or not, so that what it sends next can't be told from one."""
    return "Expect" in request.headers and not request.content.is_eof()


def _pattern(path: str) -> str:
    """Return a route's path for the library's router, whose own parameters match no braces."""
    return re.sub(r"\{(\w+)(:uuid)?\}", r"{\1:[^/]+}", path)


def _route_of(request: web.Request) -> str:
    try:
        resource = request.match_info.route.resource
    except AssertionError:  # the path was refused before it was looked up
        return "unknown"
    return "unknown" if resource is None else resource.canonical
