"""The coupon service over HTTP: parse → use case → reply."""

from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field, model_validator

from services.coupon import domain, store
from services.coupon.domain import CouponExists, CouponId, CouponNotFound, UserId
from shared.contracts.scopes import Scope
from shared.contracts.types import Amount, Id, NewId, Page, PositiveAmount, Query, Wire
from shared.http.callers import caller, listed_user, user_of
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import decode_cursor, encode_cursor, path_id, read_body, read_query
from shared.identity.callers import SIGNED_IN, Forbidden
from shared.ids import uuid7
from shared.notation import Timestamp
from shared.postgres.connections import Pool, Row
from shared.slots import Misdirected, Ownership

PERCENT_MAX = 100


class NewCoupon(Wire):
    """A coupon to give to a user; the id is made if none is given. `value`: minor units, or percent 1..100."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"kind": {"const": "fixed"}}},
                {"properties": {"kind": {"const": "percent"}, "value": {"maximum": PERCENT_MAX}}},
            ]
        }
    )
    coupon_id: NewId | None = None
    user_id: Id
    kind: Literal["fixed", "percent"]
    value: PositiveAmount
    max_discount: PositiveAmount | None = None
    min_subtotal: Amount = 0
    expires_at: Timestamp | None = None

    @model_validator(mode="after")
    def _percent(self) -> "NewCoupon":
        if self.kind == "percent" and self.value > PERCENT_MAX:
            raise ValueError(f"a percentage may be {PERCENT_MAX} at the most")
        return self


class Coupon(Wire):
    """A coupon; amounts in minor units of `currency`. `order_id` is the order that reserved or redeemed it."""

    coupon_id: str
    user_id: str
    kind: Literal["fixed", "percent"]
    value: int
    max_discount: int | None = None
    min_subtotal: int
    expires_at: Timestamp | None = None
    status: Literal["AVAILABLE", "RESERVED", "REDEEMED"]
    order_id: UUID | None = None
    discount_amount: int | None = None
    created_at: Timestamp
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]


class Coupons(Wire):
    """A page of coupons, by id."""

    items: list[Coupon]
    next_cursor: str | None


class CouponPage(Page):
    """Which coupons to list."""

    user_id: Id | None = None
    status: Literal["AVAILABLE", "RESERVED", "REDEEMED"] | None = None


class CouponQuery(Query):
    """Whose coupon it is."""

    user_id: Annotated[
        Id | None,
        Field(description="The coupon's user. Where there are several cells, it is needed for another user's coupon."),
    ] = None


class CouponApi:
    """The handlers and their dependencies."""

    def __init__(self, pool: Pool, currency: str, ownership: Ownership, client_timeout_seconds: float) -> None:
        self._pool = pool
        self._ownership = ownership
        self._currency = currency
        self._timeout = client_timeout_seconds

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(
                "POST",
                "/v1/coupons",
                Scope.COUPONS_WRITE,
                self.create,
                "Give a coupon to a user",
                {201: Coupon},
                (CouponExists, Misdirected),
                NewCoupon,
            ),
            Route(
                "GET",
                "/v1/coupons",
                SIGNED_IN,
                self.list,
                "List coupons by id",
                {200: Coupons},
                (Forbidden, Misdirected),
                query=CouponPage,
            ),
            Route(
                "GET",
                "/v1/coupons/{coupon_id}",
                SIGNED_IN,
                self.get,
                "Get a coupon",
                {200: Coupon},
                (CouponNotFound, Forbidden, Misdirected),
                query=CouponQuery,
            ),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """POST /v1/coupons."""
        new = await read_body(request, NewCoupon, timeout_seconds=self._timeout)
        self._ownership.check_user(new.user_id)
        coupon = domain.Coupon(
            CouponId(new.coupon_id or str(uuid7())),
            UserId(new.user_id),
            new.kind,
            new.value,
            new.max_discount,
            new.min_subtotal,
            new.expires_at,
        )
        async with self._pool.connection() as db:
            row = await store.create_coupon(db, coupon)
        return reply(self._view(row), 201)

    async def get(self, request: web.Request) -> web.Response:
        """GET /v1/coupons/{coupon_id}."""
        coupon_id = path_id(request, "coupon_id", CouponNotFound)
        user_id = self._user_of(request)
        async with self._pool.connection() as db:
            row = await store.get_coupon(db, coupon_id)
        if row is None or user_id not in (None, row["user_id"]):
            raise CouponNotFound
        return reply(self._view(row))

    async def list(self, request: web.Request) -> web.Response:
        """GET /v1/coupons."""
        page = read_query(request, CouponPage)
        user_id = listed_user(request, page.user_id, Scope.ORDERS_READ)
        if user_id is not None:
            self._ownership.check_user(user_id)
        after = decode_cursor(page.cursor, str)
        async with self._pool.connection() as db:
            rows = await store.list_coupons(db, after[0] if after else "", page.limit + 1, user_id, page.status)
        items = rows[: page.limit]
        cursor = encode_cursor(items[-1]["coupon_id"]) if len(rows) > page.limit else None
        return reply({"items": [self._view(row) for row in items], "next_cursor": cursor})

    def _user_of(self, request: web.Request) -> str | None:
        """Return whose coupon is read: the given user's or the caller's; None for anybody's of this cell.

        A coupon's id does not say which cell has it, only a user does. Raises Misdirected or Forbidden.
        """
        # Without it, other parameters are ignored: this call had none at first.
        given = read_query(request, CouponQuery).user_id if "user_id" in request.query else None
        if given is None and caller(request).has(Scope.ORDERS_READ):
            return None
        user_id = user_of(request, given, Scope.ORDERS_READ)
        self._ownership.check_user(user_id)
        return user_id

    def _view(self, row: Row) -> dict[str, Any]:
        given = {name: value for name, value in row.items() if value is not None}
        return {**given, "currency": self._currency}
