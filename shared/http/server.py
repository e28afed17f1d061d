"""Serves a service's routes, with metrics, health checks, problems, limits for slow clients and a bounded stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage

from shared import tls
from shared.encoding import encode
from shared.http import docs_page, openapi, problem_pages, problems, request_metrics
from shared.http.aiohttp_internals import Connection, dispatch, until_received
from shared.http.callers import guarded
from shared.http.connection import (
    CONNECTIONS_MAX,
    AdmissionGate,
    ConnectionLimit,
    Handshake,
    RejectedConnection,
    unavailable,
)
from shared.http.deadline import Deadlines
from shared.http.plain_listener import PlainListener
from shared.http.problems import RequestTimeout
from shared.http.readiness import Check, Readiness
from shared.http.routes import Route, router_path
from shared.http.tls_listener import TlsListener
from shared.http.wire import expects_continue
from shared.identity.authenticator import Authenticator
from shared.identity.callers import INTERNAL
from shared.process import logs, trace
from shared.process.build import VERSION
from shared.process.exits import Exit, end
from shared.process.settings import ServiceSettings
from shared.process.stopping import Stop
from shared.process.tasks import essentials
from shared.refusals import Unavailable
from shared.tracing import spans

log = structlog.get_logger()

# Connections that may wait to be accepted in a burst: as many as may be open. The kernel drops further ones without an
# answer, and their clients try again seconds later.
BACKLOG = CONNECTIONS_MAX
# At most one refusal for overload is logged in this time, so that overload does not flood the log.
OVERLOAD_LOG_SECONDS = 1.0

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """One listener with a service's routes.

    `authenticator`: finds the caller of a request. `checks`: run by /readyz, by name; a check raises if the service
    can't serve requests. `details`: further facts in the answer of /readyz, which don't decide its status.
    `audience`: who connects. Clients get probes and metrics only from a listener for all. A listener for clients alone
    opens when all checks have passed once. The one for services has no /docs, because no person calls there.
    """

    _in_flight = 0  # of all servers of this process

    def __init__(
        self,
        service: str,
        description: str,
        settings: ServiceSettings,
        authenticator: Authenticator,
        routes: Sequence[Route],
        checks: Mapping[str, Check],
        details: Callable[[], Mapping[str, Any]] = dict,
        *,
        audience: Literal["all", "clients", "operators", "services"] = "all",
    ) -> None:
        request_metrics.watch_active(lambda: HttpServer._in_flight)
        self._service = service
        self._settings = settings
        files = settings.tls_files(internal=any(route.policy is INTERNAL for route in routes))
        self._tls = tls.server(files) if files.certificate else None
        self._auth_mode = authenticator.mode
        self._readiness = Readiness({**checks, **authenticator.checks})
        self._deadlines = Deadlines()
        self._details = details
        self._audience = audience
        self._stop = Stop()
        self._listens = False
        self._overload_logged_at = float("-inf")
        spec = openapi.document(service, VERSION, description, routes, authenticator.mode)
        self._spec = encode(spec)
        # Paths without parameters are looked up here: the router costs as much as parsing the request.
        self._direct: dict[tuple[str, str], Route] = {}
        self._app = web.Application()
        fixed = {route.path for route in routes if "{" not in route.path}
        for route in (replace(route, handler=guarded(route, authenticator)) for route in routes):
            # HEAD is answered as GET: the library leaves the body out.
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                self._app.router.add_route(method, router_path(route.path, fixed), route.handler)
                if "{" not in route.path:
                    self._direct[method, route.path] = route
        about: dict[str, Handle] = {"/openapi.json": self._openapi}
        if audience != "clients":
            about |= {"/livez": self._livez, "/readyz": self._readyz, "/metrics": request_metrics.show}
        self._untraced = frozenset(about)  # probes would be most of all traces, and tell nothing
        pages: dict[str, Handle] = {
            **problem_pages.PAGES,
            **({} if audience == "services" else docs_page.pages(spec["info"]["title"])),
        }
        self._app.router.add_routes([web.get(*one) for one in (about | pages).items()])

    async def run(self, stop: Stop) -> None:
        """Serve until `stop` is set, then refuse new connections and finish running requests.

        Once the stop is announced, report unready, and close each connection with its next answer.
        """
        self._stop = stop
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
        limit = ConnectionLimit(self._service, internal=self._audience in ("operators", "services"))
        gates = {
            place: AdmissionGate(partial(self._reject, route))
            for place, route in self._direct.items()
            if route.check_capacity
        }

        def connect(handshake: Handshake | None = None) -> asyncio.Protocol:
            return Connection(server, user_timeout, limit, gates, handshake, loop=loop, **options)

        def accept() -> asyncio.Protocol:
            return RejectedConnection() if limit.full else connect()

        tls_context = self._tls
        listener = TlsListener(tls_context, limit, connect, user_timeout) if tls_context else PlainListener(accept)
        try:
            bound = await loop.create_server(accept, self._settings.host, self._settings.port, start_serving=False)
            if self._audience == "clients":
                await self._readiness.first_ready(stop)
            if not stop.announced:
                await listener.listen(bound.sockets, BACKLOG)
                self._listens = True
            bound.close()
        except OSError as error:
            end(Exit.CANNOT_LISTEN, f"cannot listen on {self._settings.host}:{self._settings.port}: {error.strerror}")
        if self._listens:
            place = {"host": self._settings.host, "port": self._settings.port}
            log.info("server.listening", **place, tls=self._tls is not None)
            stop.listening = True
        await stop.wait()
        await listener.close()
        await until_received(server)
        server.pre_shutdown()
        await server.shutdown(self._settings.shutdown_seconds)
        await runner.cleanup()

    async def check_listens(self) -> None:
        """Raise Unavailable until clients can connect."""
        if not self._listens:
            raise Unavailable("Clients can't connect yet.")

    async def _observe(self, request: Any) -> web.StreamResponse:
        started = time.perf_counter()
        mark = trace.from_headers(request.headers)
        trace.current.set(mark)
        is_probe = request.rel_url.raw_path in self._untraced
        span = spans.begin_request(None if is_probe else mark.traceparent, is_root=mark.is_root)
        direct = self._direct.get((request.method, request.rel_url.raw_path))
        deadline_seconds = (direct and direct.deadline_seconds) or self._settings.request_deadline_seconds
        HttpServer._in_flight += 1
        try:
            handler = partial(dispatch, self._app) if direct is None else direct.handler
            response = await self._handle(request, handler, deadline_seconds)
        finally:
            HttpServer._in_flight -= 1
        response.headers.update(mark.headers())
        if self._stop.announced or request.protocol.is_last(request) or _leaves_body(request):
            response.force_close()
        route = self._route_of(request)
        method = request.method if route != "unknown" else "other"  # clients must not choose labels
        self._take_note(mark, method, route, response.status, time.perf_counter() - started)
        spans.end_request(span, method, route, response.status)
        return response

    def _reject(self, route: Route, message: RawRequestMessage, pending: int) -> bytes | None:
        """Return the answer to a request if there is no capacity for it; None if it is to be handled."""
        if self._stop.announced or "Expect" in message.headers:
            return None
        started = time.perf_counter()
        try:
            assert route.check_capacity is not None
            route.check_capacity(pending)
        except Unavailable as error:
            mark = trace.from_headers(message.headers)
            answer = unavailable(error, route.path, mark.headers())
            self._take_note(mark, route.method, route.path, 503, time.perf_counter() - started)
            return answer
        return None

    def _take_note(self, mark: trace.Trace, method: str, route: str, status: int, seconds: float) -> None:
        """Count and time an answer, and log it if the settings say so."""
        request_metrics.observe(method, route, status, "http" if self._tls is None else "https", seconds)
        if self._is_logged(status):
            # A rejected request has no task and so no context of its own: its trace is passed here.
            known = {"request_id": mark.request_id, "trace_id": mark.trace_id}
            log.info("request.answered", method=method, route=route, status=status, seconds=round(seconds, 4), **known)

    def _is_logged(self, status: int) -> bool:
        if logs.is_debugging():
            return True
        if self._settings.access_log == "errors" and status == 503:
            now = time.monotonic()
            if now - self._overload_logged_at < OVERLOAD_LOG_SECONDS:
                return False
            self._overload_logged_at = now
        return self._settings.access_log == "all" or (self._settings.access_log == "errors" and status >= 500)

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
            log.exception("request.failed", method=request.method, route=self._route_of(request))
            return problems.bug(problems.instance(request))
        if response.status in (408, 413):
            response.force_close()  # the rest of the body is not worth reading
        return response

    def _route_of(self, request: web.Request) -> str:
        """Return the path as it was declared: what clients put into theirs belongs neither in logs nor in metrics."""
        direct = self._direct.get((request.method, request.rel_url.raw_path))
        if direct is not None:
            return direct.path
        try:
            resource = request.match_info.route.resource
        except AssertionError:  # the path was refused before it was looked up
            return "unknown"
        return "unknown" if resource is None else resource.canonical

    async def _livez(self, _request: web.Request) -> web.Response:
        dead = essentials.dead
        return reply({"status": "not alive", "dead": dead}, 503) if dead else reply({"status": "alive"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        checks = await self._readiness.ask()
        if self._stop.announced:
            checks["process"] = "is stopping"
        ready = all(result == "ok" for result in checks.values())
        body = {"status": "ready" if ready else "not ready", "auth_mode": self._auth_mode, "checks": checks}
        body.update(self._details())
        return reply(body, 200 if ready else 503)

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._spec, content_type="application/json")


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON response; timestamps are RFC 3339 in UTC."""
    return web.Response(body=encode(body), status=status, headers=headers, content_type="application/json")


def _leaves_body(request: web.Request) -> bool:
    """Return whether it is open if the client sends a body, so that its next bytes could be a body or a request."""
    return "Expect" in request.headers and not request.content.is_eof()
