"""Products: create, change and read them, and move their stock."""

from collections.abc import AsyncIterator

from .lists import LISTED, every
from .models import NewProduct, Product, ProductChange, Products, StockMove
from .problems import NoFinalAnswer, Problem, ProductExists
from .transport import AfterUncertainty, Call, Request, Service, Transport, new_key

ONE = "/v1/products/{product_id}"
CREATE = Call(Service.PRODUCT, "POST", "/v1/products", {201: Product}, NewProduct)
LIST = Call(Service.PRODUCT, "GET", "/v1/products", {200: Products}, query=LISTED)
GET = Call(Service.PRODUCT, "GET", ONE, {200: Product})
CHANGE = Call(Service.PRODUCT, "PATCH", ONE, {200: Product}, ProductChange)
MOVE_STOCK = Call(Service.PRODUCT, "POST", f"{ONE}/stock", {200: Product}, StockMove, repeatable=False)
CALLS = (CREATE, LIST, GET, CHANGE, MOVE_STOCK)


class ProductCalls:
    """The calls of the product service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self, *, name: str, price: int, stock: int, product_id: str | None = None, deadline_seconds: float | None = None
    ) -> Product:
        """Add a product; its id is made if none is given. Raises ProductExists if it was there before.

        If an earlier attempt of this call may have added the product, and it has this name and price, that counts.
        """
        body = NewProduct(product_id=product_id or new_key(), name=name, price=price, stock=stock)
        deadline = self._transport.deadline(deadline_seconds)
        try:
            return (await self._transport.send(Request(CREATE, body=body), deadline)).model  # type: ignore[no-any-return]
        except AfterUncertainty as error:
            if not isinstance(error.refusal, ProductExists):
                raise error.for_callers() from None
            try:
                found: Product = await self._transport.model(Request(GET, {"product_id": body.product_id}), deadline)
            except Problem as problem:  # about reading the product, not about making it
                raise NoFinalAnswer(problem, None) from problem
            if (found.name, found.price) != (name, price):
                raise error.for_callers() from None
            return found

    async def get(self, product_id: str, *, deadline_seconds: float | None = None) -> Product:
        """Return a product."""
        return await self._one(Request(GET, {"product_id": product_id}), deadline_seconds)

    def list(self, *, page_size: int = 100) -> AsyncIterator[Product]:
        """Yield products by id. Each page has a deadline of its own."""
        return every(self._transport, LIST, {}, page_size)

    async def change(
        self,
        product_id: str,
        *,
        name: str | None = None,
        price: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Product:
        """Change a product's name, price or both. Orders keep those with which they were placed."""
        body = ProductChange(name=name, price=price)
        return await self._one(Request(CHANGE, {"product_id": product_id}, body=body), deadline_seconds)

    async def move_stock(self, product_id: str, delta: int, *, deadline_seconds: float | None = None) -> Product:
        """Put units in, or with a negative number take units out.

        Raises OutcomeUnknown if the move may have happened: it has no key, so it is not repeated. Read the stock first.
        """
        body = StockMove(delta=delta)
        return await self._one(Request(MOVE_STOCK, {"product_id": product_id}, body=body), deadline_seconds)

    async def _one(self, request: Request, seconds: float | None) -> Product:
        product: Product = await self._transport.model(request, self._transport.deadline(seconds))
        return product
