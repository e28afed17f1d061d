"""The rules of products and their stock: pure functions of the loaded rows, and the refusals they raise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NewType
from uuid import UUID

from shared.contracts.refusals import OutOfStock, ProductNotFound
from shared.participant.protocol import Do, Undo
from shared.refusals import Refusal

ProductId = NewType("ProductId", str)
OrderId = NewType("OrderId", UUID)

UNITS_MAX = 2**63 - 1  # the largest bigint
# The text of a refusal names products up to this length; `product_ids` has them all. The text is stored and logged.
NAMED_CHARACTERS_MAX = 100


class ProductExists(Refusal):
    """There is a product with this id already."""

    slug = "product-exists"
    status = 409


class StockTooLarge(Refusal):
    """A product can't have had more than 2^63-1 units put in."""

    slug = "stock-too-large"


@dataclass(frozen=True, slots=True)
class Stock:
    """A product before a batch; `units` are free to sell, `price` is in minor units."""

    name: str
    price: int
    units: int


@dataclass(frozen=True, slots=True)
class HoldStock(Do):
    """Take units of several products for an order, all or nothing."""

    type: ClassVar[str] = "hold_stock"
    attempt: int
    lines: tuple[tuple[ProductId, int], ...]


@dataclass(frozen=True, slots=True)
class RestoreStock(Undo):
    """Give back what an order holds."""

    type: ClassVar[str] = "restore_stock"


# A gate is an order's id.
Command = HoldStock | RestoreStock
Units = Mapping[ProductId, int]


@dataclass(frozen=True, slots=True)
class Hold:
    """Units of a product that an order took, with the price at that time."""

    order_id: OrderId
    product_id: ProductId
    quantity: int
    unit_price: int


class Batch:
    """The working copy of one batch.

    `stock`: every product that the batch names or that its orders hold. `held`: the units that each of its orders
    holds, by product. After the commands, `holds` are new, and `restored` names orders whose stored holds are given
    back.
    """

    def __init__(self, stock: Mapping[ProductId, Stock], held: Mapping[OrderId, Units]) -> None:
        self._stock = stock
        self._held = held
        self._units: dict[ProductId, int] = {product: item.units for product, item in stock.items()}
        self.holds: dict[tuple[OrderId, ProductId], Hold] = {}
        self.restored: list[OrderId] = []

    @property
    def changed(self) -> dict[ProductId, int]:
        """Return the new free stock of each product that changed."""
        return {product: units for product, units in self._units.items() if units != self._stock[product].units}

    def do(self, command: Command) -> Mapping[str, Any]:
        """Hold the stock of an order. Raises ProductNotFound or OutOfStock."""
        assert isinstance(command, HoldStock)
        unknown = [product for product, _ in command.lines if product not in self._stock]
        if unknown:
            raise ProductNotFound(f"There is no product {_named(unknown)}.", product_ids=unknown)
        short = [product for product, quantity in command.lines if self._units[product] < quantity]
        if short:
            raise OutOfStock(f"Too few units of {_named(short)}.", product_ids=short)
        order_id, lines = OrderId(command.gate), []
        for product, quantity in command.lines:
            item = self._stock[product]
            self._units[product] -= quantity
            self.holds[order_id, product] = Hold(order_id, product, quantity, item.price)
            lines.append({"product_id": product, "name": item.name, "quantity": quantity, "unit_price": item.price})
        return {"lines": lines}

    def undo(self, command: Command) -> Mapping[str, Any]:
        """Give back what an order holds."""
        order_id = OrderId(command.gate)
        stored = self._held.get(order_id, {})
        for product, quantity in stored.items():
            self._units[product] += quantity
        if stored:
            self.restored.append(order_id)
        # A hold of this same batch, undone before it was written.
        for place in [place for place in self.holds if place[0] == order_id]:
            self._units[place[1]] += self.holds.pop(place).quantity
        return {}


def check_stock_move(stock: int, put_in: int, delta: int) -> None:
    """Check a delivery (delta > 0) or removal (delta < 0) of units. Raises OutOfStock or StockTooLarge.

    A bound on all units ever put in also keeps every later restore within a bigint.
    """
    if stock + delta < 0:
        raise OutOfStock(f"There are {stock} units free to remove.")
    if put_in + delta > UNITS_MAX:
        raise StockTooLarge


def _named(products: Sequence[ProductId]) -> str:
    """Return the first products as text, and how many others there are."""
    text: str = products[0]
    for count, product in enumerate(products[1:], 1):
        longer = f"{text}, {product}"
        if len(longer) > NAMED_CHARACTERS_MAX:
            return f"{_shortened(text)} and {len(products) - count} more"
        text = longer
    return _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= NAMED_CHARACTERS_MAX else f"{text[:NAMED_CHARACTERS_MAX]}…"
