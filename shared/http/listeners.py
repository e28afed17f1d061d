"""Divides a service's routes between the listener for clients and the one for services and operators."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.http.readiness import Check
from shared.http.routes import Route
from shared.http.server import HttpServer
from shared.http.settings_route import settings_route
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
    not for clients: the calls between services, probes and metrics. The one for clients opens when all checks have
    passed once. The internal one also shows the settings, to operators only: not everything that can connect is one.
    """
    shown = settings_route(settings)
    if authenticator.mode == "open":
        return [HttpServer(service, description, settings, authenticator, [*routes, shown], checks, details)]
    public = [route for route in routes if route.policy is not INTERNAL]
    internal = [*(route for route in routes if route.policy is INTERNAL), shown]
    own = settings.internal_listener
    name, what = f"{service} internal", "For services and operators."
    clients = HttpServer(service, description, settings, authenticator, public, checks, audience="clients")
    # A balancer that asks /readyz sends requests at the first 200.
    probed = {**checks, "listener": clients.check_listens}
    return [clients, HttpServer(name, what, own, authenticator, internal, probed, details, audience="services")]
