"""Divides a service's routes between the listener for clients and the one for services and operators."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.http.readiness import Check
from shared.http.routes import Route
from shared.http.server import HttpServer
from shared.identity.authenticator import Authenticator
from shared.identity.callers import INTERNAL
from shared.process.settings import ServiceSettings


def listeners(
    service: str,
    description: str,
    settings: ServiceSettings,
    authenticator: Authenticator,
    routes: Sequence[Route],
    checks: Mapping[str, Check],
    details: Callable[[], Mapping[str, Any]] = dict,
) -> list[HttpServer]:
    """Return the listeners of a service; arguments as for HttpServer.

    In open mode one listener serves everything. In jwt mode a second one, with connections of its own, serves what is
    not for clients: the calls between services, probes and metrics.
    """
    if authenticator.mode == "open":
        return [HttpServer(service, description, settings, authenticator, routes, checks, details)]
    public = [route for route in routes if route.policy is not INTERNAL]
    internal = [route for route in routes if route.policy is INTERNAL]
    own = settings.internal_listener
    name, what = f"{service} internal", "For services and operators."
    return [
        HttpServer(service, description, settings, authenticator, public, {}, audience="clients"),
        HttpServer(name, what, own, authenticator, internal, checks, details, audience="internal"),
    ]
