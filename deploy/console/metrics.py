"""What the console reports of itself, in the words of the services' metrics where they fit."""

import time
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import Gauge

from deploy.console.figures.live import BY_SERVICE
from deploy.console.visit import Parts
from shared.http import request_metrics

SESSIONS = Gauge("console_sessions", "Operators who are signed in")
STREAMS = Gauge("console_streams", "Open pages that show figures")
STREAMS_MAX = Gauge("console_streams_max", "Open pages that may show figures")
REPLICAS = Gauge("console_replicas", "Replicas, by whether the last round read their metrics", ["service", "state"])
STREAM = "text/event-stream"

_active = 0

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
show = request_metrics.show


def watch(parts: Parts) -> None:
    """Report what is in these parts."""
    request_metrics.watch_active(lambda: _active)
    SESSIONS.set_function(lambda: parts.sessions.count)
    STREAMS.set_function(lambda: parts.streams.open)
    STREAMS_MAX.set_function(lambda: parts.settings.streams_max)

    def replicas(service: str, *, read: bool) -> int:
        known = parts.sampler.readings
        return sum(one.service == service and (one in known) is read for one in parts.sampler.replicas)

    for service in BY_SERVICE:
        REPLICAS.labels(service, "read").set_function(partial(replicas, service, read=True))
        REPLICAS.labels(service, "away").set_function(partial(replicas, service, read=False))


def counting(parts: Parts) -> Middleware:
    """Return what times every request. A stream is as long as somebody looks, so only its opening would be a time."""
    scheme = "http" if parts.settings.tls_certificate_file is None else "https"

    @web.middleware
    async def count(request: web.Request, handler: Next) -> web.StreamResponse:
        global _active  # noqa: PLW0603 - one gauge for all listeners of the process
        began = time.perf_counter()
        _active += 1
        try:
            response = await handler(request)
        finally:
            _active -= 1
        if response.content_type != STREAM:
            route = route_of(request)
            method = request.method if route != "unknown" else "other"  # clients must not choose labels
            request_metrics.observe(method, route, response.status, scheme, time.perf_counter() - began)
        return response

    return count


def route_of(request: web.Request) -> str:
    """Return the path as it was declared, or "unknown"."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical
