"""Puts the pages behind one listener: who may see what, the headers of every answer, and the pages for errors."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import aiohttp
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from deploy.client.problems import ClientError, OutcomeUnknown, Problem
from deploy.console import assets, guard, metrics, preferences, sign_in
from deploy.console.guard import Refused
from deploy.console.routes import Page, Route
from deploy.console.visit import Parts, Visit, inner_path
from shared.process.tasks import essentials
from shared.refusals import Unavailable

log = structlog.get_logger()

BODY_MAX = 65_536  # bytes; the largest form has a token of 8 KB
HEADERS = {
    # Everything comes from this listener; nothing in a page is run, or is a style, that did not come as a file.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it, browsers don't say the origin of a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NOT_KEPT = "no-store"
KEPT_HEADERS = ("Allow", "Retry-After")  # of errors
ALIVE, READY, METRICS = "/livez", "/readyz", "/metrics"

VISIT = web.RequestKey("visit", Visit)

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(parts: Parts, pages: Sequence[Page]) -> web.Application:
    """Return the application with the pages."""
    app = web.Application(client_max_size=BODY_MAX, middlewares=[metrics.counting(parts), _answering(parts)])
    app.on_response_prepare.append(finish)
    _add_probes(app, parts)
    if parts.settings.shows_metrics_beside_pages:
        app.router.add_get(METRICS, metrics.show)
    app.router.add_get("/static/{digest}/{name}", assets.serve)
    for route in (*sign_in.ROUTES, *preferences.ROUTES, *(route for page in pages for route in page.routes)):
        app.router.add_route(route.method, route.path, partial(_serve, parts, route))
    return app


def internal(parts: Parts) -> web.Application:
    """Return the application for probes and Prometheus, which has no page."""
    app = web.Application(middlewares=[metrics.counting(parts)])
    app.on_response_prepare.append(finish)
    _add_probes(app, parts)
    app.router.add_get(METRICS, metrics.show)
    return app


def _add_probes(app: web.Application, parts: Parts) -> None:
    app.router.add_get(ALIVE, _alive)
    app.router.add_get(READY, partial(_ready, parts))


async def finish(_request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of every answer, also of those that begin a stream."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", NOT_KEPT)


def _answering(parts: Parts) -> Middleware:
    """Return what refuses requests that no page of ours sends, and turns every failure into a page."""

    # Probes and Prometheus don't know our name.
    nameless = {ALIVE, READY, *([METRICS] if parts.settings.shows_metrics_beside_pages else [])}

    @web.middleware
    async def answer(request: web.Request, handler: Next) -> web.StreamResponse:
        if request.path in nameless:
            return await handler(request)
        visit = request[VISIT] = Visit.begin(request, parts)
        try:
            guard.check(request.method, request.headers, parts.settings.origins)
            if guard.comes_from_elsewhere(request.headers):
                # Not a new visitor: a new cookie would end the session. From this page, the browser sends its cookies.
                return visit.page("arrived.html", place=inner_path(request.raw_path))
            return await handler(request)
        except Refused as error:
            # No page of ours has sent it, so none is shown.
            return web.Response(status=error.status, text=visit.texts(f"error.{error.reason}"))
        except ConnectionResetError:
            raise  # the browser is gone
        except Exception as error:  # noqa: BLE001 - every failure becomes a page
            return _failed(visit, error)

    return answer


def _failed(visit: Visit, error: Exception) -> web.Response:
    """Return the page for a failure."""
    if isinstance(error, web.HTTPException):
        page = _error(visit, error.status, visit.texts.known(f"error.{error.status}", error.reason))
        page.headers.update({name: value for name, value in error.headers.items() if name in KEPT_HEADERS})
        return page
    if isinstance(error, Problem):
        if error.status == 401 and visit.session is not None:
            visit.parts.sessions.end(visit.session.id_)
            return visit.to_sign_in()
        return _error(visit, error.status, error.detail or error.slug)
    if isinstance(error, OutcomeUnknown):
        return _error(visit, 502, visit.texts("act.unknown"))
    if isinstance(error, ClientError | aiohttp.ClientError | TimeoutError):
        return _error(visit, 502, visit.texts("error.services"), str(error))
    if isinstance(error, Unavailable):
        return _error(visit, 503, visit.texts("error.keys"))
    log.error("request.failed", method=visit.request.method, route=metrics.route_of(visit.request), exc_info=error)
    return _error(visit, 500, visit.texts("error.500"))


async def _serve(parts: Parts, route: Route, request: web.Request) -> web.StreamResponse:
    """Serve a route to those who may see it."""
    visit = request[VISIT]
    if route.method == "POST":
        try:
            async with asyncio.timeout(parts.settings.deadline_seconds):
                fields = await request.post()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        except (ValueError, LookupError):  # no such charset, or not written in it; no parts where there must be some
            raise web.HTTPBadRequest from None
        visit.form = {name: value.strip() for name, value in fields.items() if isinstance(value, str)}
        known = parts.told(request, "id")
        if not parts.sessions.is_form_token(known, visit.form.get("form_token", "")):
            raise Refused(403, "form")
    if route.scope is not None:
        if not visit.signed_in:
            return visit.to_sign_in()
        if not visit.may(route.scope):
            return _error(visit, 403, visit.texts("error.scope", scope=route.scope.value))
    return await route.handle(visit)


async def _alive(_request: web.Request) -> web.Response:
    """Answer whether the process works; if not, it is about to end."""
    dead = essentials.dead
    return web.json_response({"status": "not alive" if dead else "alive"}, status=503 if dead else 200)


async def _ready(parts: Parts, _request: web.Request) -> web.Response:
    """Answer whether pages can be served: with tokens, only once the issuer's keys are known."""
    try:
        for check in parts.authenticator.checks.values():
            await check()
    except Unavailable as error:
        return web.json_response({"status": "not ready", "reason": type(error).__name__}, status=503)
    return web.json_response({"status": "ready"})


def said(error: Exception) -> str:
    """Return what to say about the end of work that no page waits for."""
    return error.detail or error.slug if isinstance(error, Problem) else str(error)


def _error(visit: Visit, status: int, text: str, detail: str = "") -> web.Response:
    return visit.page("error.html", status, text=text, detail=detail)
