"""The order service over HTTP: parse → use case → reply."""

import asyncio
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from aiohttp import web

from services.order import store
from services.order.checkout import Checkout, Pending
from services.order.domain import (
    AmountTooLarge,
    ForcedByOperator,
    Order,
    OrderExpired,
    OrderId,
    OrderNotCancellable,
    OrderNotFound,
    OrderNotPayable,
    OrderStatus,
    OrderWithdrawn,
)
from services.order.engine.admission import Admission
from services.order.engine.idempotency import location
from services.order.engine.operations import KeyClaim, fingerprint
from services.order.engine.quota import TooManyRequests
from services.order.store import Answer
from services.order.timeline import timeline
from shared.contracts import events
from shared.contracts.commands import Lines, Units
from shared.contracts.refusals import (
    InsufficientBalance,
    InvalidCoupon,
    NotReserved,
    OrderHasCoupon,
    OutOfStock,
    ProductNotFound,
)
from shared.contracts.scopes import Scope
from shared.contracts.types import Id, NoBody, Page, Wire
from shared.http import problems
from shared.http.callers import caller, listed_user, user_of
from shared.http.deadline import GRACE_SECONDS
from shared.http.idempotency import (
    KEY_DESCRIPTION,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    parse_key,
)
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import decode_cursor, encode_cursor, path_uuid, read_body, read_query
from shared.identity.callers import SIGNED_IN, Forbidden
from shared.participant.protocol import Fenced
from shared.postgres.connections import Pool
from shared.refusals import Unavailable
from shared.slots import Misdirected, Ownership

NEWEST = UUID(int=2**128 - 1)
# After its deadline, a request that began a saga may read the order for this long. The server cuts it off much later.
LAST_READ_SECONDS = GRACE_SECONDS / 2


class NewLine(Wire):
    """Units of one product."""

    product_id: Id
    quantity: Units


class NewOrder(Wire):
    """What a customer wants to buy, and whether it is paid now or later."""

    user_id: Id | None = None
    lines: Lines[NewLine]
    coupon_id: Id | None = None
    payment: Literal["now", "later"] = "now"


class OrderView(events.Order):
    """An order; amounts are in minor units of `currency`, and null until they are known."""

    status: OrderStatus
    closing: bool | None = None
    reason: str | None = None


class Orders(Wire):
    """A page of orders, newest first."""

    items: list[OrderView]
    next_cursor: str | None


class TimelineItem(Wire):
    """Something that an order's saga did."""

    at: datetime
    step: str
    outcome: str
    detail: str | None


class Timeline(Wire):
    """What an order's sagas did, oldest first."""

    items: list[TimelineItem]


class OrdersQuery(Page):
    """Which orders to list."""

    user_id: Id | None = None
    status: OrderStatus | None = None


class OrderApi:
    """The handlers of the public routes."""

    def __init__(
        self,
        pool: Pool,
        checkout: Checkout,
        admission: Admission,
        ownership: Ownership,
        *,
        client_timeout_seconds: float,
    ) -> None:
        self._pool = pool
        self._checkout = checkout
        self._admission = admission
        self._ownership = ownership
        self._timeout = client_timeout_seconds

    def routes(self) -> list[Route]:
        """Return the routes."""
        keyed: dict[str, Any] = {"headers": KEY_DESCRIPTION, "locates": True}
        starting = (TooManyRequests, IdempotencyKeyReused, IdempotencyInProgress)
        missing = (OrderNotFound, Misdirected)
        undone = (ForcedByOperator, OrderWithdrawn, Fenced)
        invalid = (InvalidCoupon, NotReserved, OrderHasCoupon)
        placing = (ProductNotFound, OutOfStock, *invalid, InsufficientBalance, AmountTooLarge, *undone)
        paying = (*missing, InsufficientBalance, OrderExpired, OrderNotPayable, NotReserved, *undone)
        ended, started = {200: OrderView, 202: OrderView}, {201: OrderView, 202: OrderView}
        one = "/v1/orders/{order_id:uuid}"
        return [
            Route(
                "POST",
                "/v1/orders",
                SIGNED_IN,
                self.place,
                "Place an order",
                started,
                (*placing, *starting, Forbidden, Misdirected),
                NewOrder,
                check_capacity=self._admission.check_capacity,
                **keyed,
            ),
            Route(
                "GET",
                "/v1/orders",
                SIGNED_IN,
                self.list,
                "List orders, newest first",
                {200: Orders},
                (Forbidden, Misdirected),
                query=OrdersQuery,
            ),
            Route("GET", one, SIGNED_IN, self.get, "Get an order", {200: OrderView}, missing),
            Route(
                "POST",
                f"{one}/payment",
                SIGNED_IN,
                self.pay,
                "Pay an order",
                ended,
                (*paying, *starting),
                NoBody,
                **keyed,
            ),
            Route(
                "POST",
                f"{one}/cancel",
                SIGNED_IN,
                self.cancel,
                "Cancel an order; a paid one is refunded",
                ended,
                (*missing, OrderNotCancellable, *starting),
                NoBody,
                **keyed,
            ),
            Route(
                "GET",
                f"{one}/timeline",
                SIGNED_IN,
                self.timeline,
                "What the sagas did",
                {200: Timeline},
                missing,
            ),
        ]

    async def place(self, request: web.Request) -> web.Response:
        """POST /v1/orders."""
        self._admission.check_capacity()  # the server checks capacity only for a request that arrives in one piece
        deadline = self._checkout.deadline()
        key = parse_key(request)
        new = await read_body(request, NewOrder, timeout_seconds=self._timeout)
        user_id = user_of(request, new.user_id, Scope.ORDERS_WRITE)
        self._ownership.check_user(user_id)  # before the key: two cells must not both have it
        claim = KeyClaim(user_id, "place", key, fingerprint({**new.model_dump(), "user_id": user_id})) if key else None
        lines = [(line.product_id, line.quantity) for line in new.lines]
        result = await self._checkout.place(
            user_id,
            lines,
            new.coupon_id,
            pay_now=new.payment == "now",
            key=claim,
            deadline=deadline,
            subject=caller(request).subject,
        )
        return await self._reply(result, deadline)

    async def pay(self, request: web.Request) -> web.Response:
        """POST /v1/orders/{order_id}/payment."""
        deadline = self._checkout.deadline()
        order_id, claim = await self._operation(request, "pay")
        result = await self._checkout.pay(order_id, claim, deadline, caller(request).subject)
        return await self._reply(result, deadline)

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/orders/{order_id}/cancel."""
        deadline = self._checkout.deadline()
        order_id, claim = await self._operation(request, "cancel")
        result = await self._checkout.cancel(order_id, claim, deadline, caller(request).subject)
        return await self._reply(result, deadline)

    async def get(self, request: web.Request) -> web.Response:
        """GET /v1/orders/{order_id}."""
        return reply((await self._order(request, Scope.ORDERS_READ)).view())

    async def list(self, request: web.Request) -> web.Response:
        """GET /v1/orders."""
        query = read_query(request, OrdersQuery)
        user_id = listed_user(request, query.user_id, Scope.ORDERS_READ)
        if user_id is not None:
            self._ownership.check_user(user_id)
        before = decode_cursor(query.cursor, UUID)
        async with self._pool.connection() as db:
            orders = await store.list_orders(
                db, before[0] if before else NEWEST, query.limit + 1, user_id, query.status
            )
        items = orders[: query.limit]
        cursor = encode_cursor(str(items[-1].order_id)) if len(orders) > query.limit else None
        return reply({"items": [order.view() for order in items], "next_cursor": cursor})

    async def timeline(self, request: web.Request) -> web.Response:
        """GET /v1/orders/{order_id}/timeline."""
        order = await self._order(request, Scope.ORDERS_READ)
        async with self._pool.connection() as db:
            sagas = await store.list_sagas_of_order(db, order.order_id)
        return reply({"items": timeline([dict(saga) for saga in sagas])})

    async def _current_order(self, order: Order, deadline: float) -> Order:
        """Return the order as stored now; if it cannot be read, as it was. A started operation never gets 503."""
        try:
            async with asyncio.timeout_at(deadline + LAST_READ_SECONDS), self._pool.connection() as db:
                return await store.get_order(db, order.order_id) or order
        except (Unavailable, TimeoutError):
            return order

    async def _order(self, request: web.Request, scope: Scope) -> Order:
        """Return the order. Another user's does not exist for a caller without `scope`."""
        order_id = self._id(request)
        async with self._pool.connection() as db:
            order = await store.get_order(db, order_id)
        if order is None or not caller(request).acts_for(order.user_id, scope):
            raise OrderNotFound(f"There is no order {order_id}.")
        return order

    def _id(self, request: web.Request) -> OrderId:
        """Return the id in the path. Raises Misdirected if its order belongs to another cell."""
        order_id = OrderId(path_uuid(request, "order_id", OrderNotFound))
        self._ownership.check_id(order_id)
        return order_id

    async def _operation(self, request: web.Request, operation: str) -> tuple[OrderId, KeyClaim | None]:
        """Read the order and idempotency key of a payment or cancellation. A key's scope is the order's user."""
        order_id = self._id(request)
        key = parse_key(request)
        await read_body(request, NoBody, timeout_seconds=self._timeout)
        if key is None and caller(request).has(Scope.ORDERS_WRITE):
            return order_id, None
        order = await self._order(request, Scope.ORDERS_WRITE)
        if key is None:
            return order_id, None
        return order_id, KeyClaim(order.user_id, operation, key, fingerprint({"order_id": str(order_id)}))

    async def _reply(self, result: Answer | Pending, deadline: float) -> web.Response:
        if isinstance(result, Pending):
            order = await self._current_order(result.order, deadline)
            return reply(order.view(), 202, {"Location": location(order)})
        headers = {"Location": result.location} if result.location else None
        content_type = "application/json" if result.status < 400 else problems.CONTENT_TYPE
        return web.Response(body=result.body, status=result.status, headers=headers, content_type=content_type)
