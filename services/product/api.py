"""The product service over HTTP: parse → use case → reply."""

from collections.abc import Collection
from typing import Annotated, Any

from aiohttp import web
from pydantic import ConfigDict, Field, model_validator

from services.product import store
from services.product.domain import ProductExists, StockTooLarge, check_stock_move
from shared.contracts.refusals import OutOfStock, ProductNotFound
from shared.contracts.scopes import Scope
from shared.contracts.types import Amount, Int64, Name, NewId, Page, Wire
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import decode_cursor, encode_cursor, path_id, read_body, read_query
from shared.identity.callers import SIGNED_IN
from shared.ids import uuid7
from shared.postgres.connections import Pool, Row
from shared.slots import SLOTS, Misdirected, slot_of


class NewProduct(Wire):
    """A product to add; the id is made if none is given."""

    product_id: NewId | None = None
    name: Name
    price: Amount
    stock: Amount


class ProductChange(Wire):
    """What to change; orders keep the price and name they were placed with."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["name"], "properties": {"name": {"type": "string"}}},
                {"required": ["price"], "properties": {"price": {"type": "integer"}}},
            ]
        }
    )
    name: Name | None = None
    price: Amount | None = None

    @model_validator(mode="after")
    def _something(self) -> "ProductChange":
        if self.name is None and self.price is None:
            raise ValueError("give a name or a price, and neither as null")
        return self


class StockMove(Wire):
    """Units put in (positive) or taken out (negative)."""

    delta: Int64


class Product(Wire):
    """A product; `stock` is what is free to sell, `price` in minor units of `currency`."""

    product_id: str
    name: str
    price: int
    stock: int
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]


class Products(Wire):
    """A page of products, by id."""

    items: list[Product]
    next_cursor: str | None


class ProductApi:
    """The handlers and their dependencies."""

    def __init__(
        self, pool: Pool, currency: str, client_timeout_seconds: float, slots: Collection[int] = range(SLOTS)
    ) -> None:
        """`slots`: those of its products, if this is one of several product shards."""
        self._pool = pool
        self._slots = slots
        self._currency = currency
        self._timeout = client_timeout_seconds

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = {200: Product}
        missing = (ProductNotFound, Misdirected)
        return [
            Route(
                "POST",
                "/v1/products",
                Scope.CATALOG_WRITE,
                self.create,
                "Add a product",
                {201: Product},
                (ProductExists, Misdirected),
                NewProduct,
            ),
            Route("GET", "/v1/products", SIGNED_IN, self.list, "List products by id", {200: Products}, query=Page),
            Route("GET", "/v1/products/{product_id}", SIGNED_IN, self.get, "Get a product", one, missing),
            Route(
                "PATCH",
                "/v1/products/{product_id}",
                Scope.CATALOG_WRITE,
                self.change,
                "Change a product's name or price",
                one,
                missing,
                ProductChange,
            ),
            Route(
                "POST",
                "/v1/products/{product_id}/stock",
                Scope.CATALOG_WRITE,
                self.move_stock,
                "Put units in or take them out",
                one,
                (*missing, OutOfStock, StockTooLarge),
                StockMove,
            ),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """POST /v1/products."""
        new = await read_body(request, NewProduct, timeout_seconds=self._timeout)
        product_id = new.product_id or self._made_id()
        self._check(product_id)
        async with self._pool.connection() as db:
            row = await store.create_product(db, product_id, new.name, new.price, new.stock)
        return reply(self._view(row), 201)

    async def get(self, request: web.Request) -> web.Response:
        """GET /v1/products/{product_id}."""
        product_id = self._id_in(request)
        async with self._pool.connection() as db:
            row = await store.get_product(db, product_id)
        return reply(self._found(row))

    async def list(self, request: web.Request) -> web.Response:
        """GET /v1/products."""
        page = read_query(request, Page)
        after = decode_cursor(page.cursor, str)
        async with self._pool.connection() as db:
            rows = await store.list_products(db, after[0] if after else "", page.limit + 1)
        items = rows[: page.limit]
        cursor = encode_cursor(items[-1]["product_id"]) if len(rows) > page.limit else None
        return reply({"items": [self._view(row) for row in items], "next_cursor": cursor})

    async def change(self, request: web.Request) -> web.Response:
        """PATCH /v1/products/{product_id}."""
        product_id = self._id_in(request)
        change = await read_body(request, ProductChange, timeout_seconds=self._timeout)
        async with self._pool.connection() as db:
            row = await store.change_product(db, product_id, change.name, change.price)
        return reply(self._found(row))

    async def move_stock(self, request: web.Request) -> web.Response:
        """POST /v1/products/{product_id}/stock."""
        product_id = self._id_in(request)
        move = await read_body(request, StockMove, timeout_seconds=self._timeout)
        async with self._pool.transaction() as db:
            locked = await store.lock_product(db, product_id)
            if locked is None:
                raise ProductNotFound
            check_stock_move(locked["stock"], locked["put_in"], move.delta)
            row = await store.move_stock(db, product_id, move.delta)
        return reply(self._view(row))

    def _made_id(self) -> str:
        """Return a new id in one of the slots of this shard."""
        while slot_of(made := str(uuid7())) not in self._slots:
            continue
        return made

    def _check(self, product_id: str) -> None:
        """Raise Misdirected unless the product is of this shard: at another one, no order would find it."""
        if (slot := slot_of(product_id)) not in self._slots:
            raise Misdirected(f"This product shard does not own slot {slot}.", slot=slot)

    def _id_in(self, request: web.Request) -> str:
        """Return the id in the path. Raises ProductNotFound or Misdirected."""
        product_id = path_id(request, "product_id", ProductNotFound)
        self._check(product_id)
        return product_id

    def _found(self, row: Row | None) -> dict[str, Any]:
        if row is None:
            raise ProductNotFound
        return self._view(row)

    def _view(self, row: Row) -> dict[str, Any]:
        return {**dict(row), "currency": self._currency}
