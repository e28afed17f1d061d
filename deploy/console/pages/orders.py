"""Orders: search by id or user; one order's steps with durations and repetitions, and its events."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from aiohttp import web

from deploy.client import Order, OrderStatus, Problem, Service
from deploy.client.models import Reply
from deploy.client.transport import Call
from deploy.console.routes import ID, Page, Route
from deploy.console.visit import Visit
from deploy.orderctl.calls import Raw
from shared.contracts.scopes import Scope

SHOWN = 50
EVENTS_MAX = 50  # an order has a handful
EVENTS_OF_ORDER = Call("relay", "GET", "/v1/events", {200: Raw}, query=frozenset({"order_id", "limit"}))


async def _search(visit: Visit) -> web.Response:
    sought, status = visit.request.query.get("q", "").strip(), visit.request.query.get("status", "")
    if is_uuid(sought):
        return visit.redirect(f"/orders/{sought}")
    chosen = OrderStatus(status) if status in set(OrderStatus) else None
    listed = visit.platform().client(Service.ORDER).orders.list
    found: list[Order] = []
    async for order in listed(user_id=sought or None, status=chosen, page_size=SHOWN):
        found.append(order)
        if len(found) == SHOWN:
            break
    return visit.page(
        "orders.html",
        orders=found,
        sought=sought,
        chosen=chosen,
        statuses=list(OrderStatus),
        shown_max=SHOWN,
    )


async def _show(visit: Visit) -> web.Response:
    id_ = visit.request.match_info["id"]
    orders = visit.platform().client(Service.ORDER).orders
    order, timeline = await asyncio.gather(orders.get(id_), orders.timeline(id_))
    return visit.page(
        "order.html",
        order=order,
        timeline=[item.model_dump() for item in timeline],
        repeated=sum(item.outcome == "unknown" for item in timeline),
        sees_sagas=visit.may(Scope.OPS_READ),
    )


async def _show_events(visit: Visit) -> web.Response:
    """Show an order's events, which the relay may have to search for: once, not each time that the page refreshes."""
    id_ = visit.request.match_info["id"]
    events, missing = await _events(visit, id_)
    return visit.page("order_events.html", order_id=id_, events=events, missing=missing)


async def _events(visit: Visit, order_id: str) -> tuple[Sequence[Mapping[str, Any]], str]:
    """Return an order's events, and why there are none, if they can't be read."""
    if not visit.may(Scope.EVENTS_READ):
        return (), visit.texts("error.scope", scope=Scope.EVENTS_READ.value)
    try:
        answer: Reply = await visit.platform().admin(EVENTS_OF_ORDER, order_id=order_id, limit=EVENTS_MAX)
    except Problem as error:
        if error.status == 401:
            raise
        return (), error.detail or error.slug
    assert isinstance(answer, Raw)
    items: Sequence[Mapping[str, Any]] = answer["items"]
    return items, ""


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID in its usual form."""
    try:
        return len(text) == 36 and bool(UUID(text))
    except ValueError:
        return False


PAGE = Page(
    "orders",
    "/orders",
    Scope.ORDERS_READ,
    (
        Route("GET", "/orders", _search, Scope.ORDERS_READ),
        Route("GET", f"/orders/{{id:{ID}}}", _show, Scope.ORDERS_READ),
        Route("GET", f"/orders/{{id:{ID}}}/events", _show_events, Scope.ORDERS_READ),
    ),
)
