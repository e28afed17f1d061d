"""Every OpenAPI document of the product, made from the routes without a server or a database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from pydantic import BaseModel

from services.balance.api import BalanceApi
from services.coupon.api import CouponApi
from services.order.admin.api import AdminApi as OrderAdminApi
from services.order.admin.audit_api import AuditApi
from services.order.api import OrderApi
from services.order.engine.admission import Admission
from services.order.engine.registry import SagaRegistry
from services.product.api import ProductApi
from services.relay import api as relay
from services.relay.admin.api import AdminApi as RelayAdminApi
from services.relay.completeness import digests
from services.relay.replay.api import ReplayApi
from shared.contracts.commands import BalanceCommands, CouponCommands, ProductCommands
from shared.http.openapi import document
from shared.http.routes import Route
from shared.http.settings_route import settings_route
from shared.participant.routes import book_routes, command_route, outcomes_route
from shared.process.settings import IdentitySettings
from shared.slots import ONE_CELL

NOBODY: Any = cast("Any", None)  # the routes are listed here, and no handler is called


@dataclass(frozen=True, slots=True)
class Documented:
    """A listener's documented routes and its document."""

    name: str
    routes: Sequence[Route]
    document: Mapping[str, Any]

    def operation(self, route: Route) -> Mapping[str, Any]:
        """Return the operation of a route that is no page."""
        path = route.path.replace(":uuid", "")
        found: Mapping[str, Any] = self.document["paths"][path][route.method.lower()]
        return found


_MADE: dict[str, list[Documented]] = {}


async def documents(mode: str) -> list[Documented]:
    """Return the document of each listener. Asynchronous, because the order service's registry needs an event loop."""
    if mode not in _MADE:
        _MADE[mode] = _documents(mode)
    return _MADE[mode]


def _documents(mode: str) -> list[Documented]:
    settings = cast("Any", SimpleNamespace(client_timeout_seconds=1.0))
    shared = [
        outcomes_route(NOBODY, NOBODY),
        *book_routes(NOBODY, "", NOBODY, NOBODY),
    ]
    shown = settings_route(IdentitySettings())
    batches: dict[str, type[BaseModel]] = {
        "product": ProductCommands,
        "coupon": CouponCommands,
        "balance": BalanceCommands,
    }
    admission = Admission(SagaRegistry(), 1)
    routes = {
        "order": OrderApi(NOBODY, NOBODY, admission, ONE_CELL, client_timeout_seconds=1.0).routes(),
        "product": ProductApi(NOBODY, "KRW", 1.0).routes(),
        "coupon": CouponApi(NOBODY, "KRW", ONE_CELL, 1.0).routes(),
        "balance": BalanceApi(NOBODY, "KRW", ONE_CELL, 1.0).routes(),
        "relay": [*(route for route in relay.routes("orders.v1") if not route.is_page), *digests.routes(NOBODY)],
        "order admin": [
            *OrderAdminApi(settings, NOBODY, NOBODY).routes(),
            *AuditApi(settings, NOBODY, NOBODY).routes(),
        ],
        "relay admin": [*RelayAdminApi(settings, NOBODY).routes(), *ReplayApi(settings, NOBODY).routes()],
        **{f"{name} internal": [shown] for name in ("order", "relay")},
        **{
            f"{name} internal": [command_route(NOBODY, batch, NOBODY), *shared, shown]
            for name, batch in batches.items()
        },
    }
    return [Documented(name, own, document(name, "1", "For tests.", own, mode)) for name, own in routes.items()]
