"""The rules of products and their stock: pure functions of what was loaded, and the refusals they give."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NewType
from uuid import UUID

from shared.contracts.refusals import OutOfStock, ProductNotFound
from shared.participant import protocol
from shared.participant.protocol import Outcome, OutcomeKey, Verdict
from shared.refusals import Refusal

ProductId = NewType("ProductId", str)
OrderId = NewType("OrderId", UUID)

UNITS_MAX = 2**63 - 1  # what a bigint holds


class ProductExists(Refusal):
    """There is a product with this id already."""

    slug = "product-exists"
    status = 409


class StockTooLarge(Refusal):
    """A product can't have had more than 2^63-1 units put in."""

    slug = "stock-too-large"


@dataclass(frozen=True, slots=True)
class Stock:
    """A product as it is before a batch; `units` are free to sell, `price` in minor units."""

    name: str
    price: int
    units: int


@dataclass(frozen=True, slots=True)
class HoldStock:
    """Take units of several products for an order, all or nothing."""

    type: ClassVar[str] = "hold_stock"
    undo: ClassVar[bool] = False
    order_id: OrderId
    attempt: int
    lines: tuple[tuple[ProductId, int], ...]

    @property
    def gate(self) -> UUID:
        """Return the order, whose gate this passes."""
        return self.order_id


@dataclass(frozen=True, slots=True)
class RestoreStock:
    """Give back what an order holds."""

    type: ClassVar[str] = "restore_stock"
    undo: ClassVar[bool] = True
    order_id: OrderId
    attempt: int = 0

    @property
    def gate(self) -> UUID:
        """Return the order, whose gate this closes."""
        return self.order_id


Command = HoldStock | RestoreStock
Units = Mapping[ProductId, int]


@dataclass(frozen=True, slots=True)
class Hold:
    """Units of a product that an order took, at the price of that moment."""

    order_id: OrderId
    product_id: ProductId
    quantity: int
    unit_price: int


@dataclass(slots=True)
class Decision:
    """What a batch comes to: the protocol's verdict and the rows to write.

    `holds` are new; `restored` names orders whose stored holds are given back; `units` is the new free stock
    of each product that changed.
    """

    verdict: Verdict
    holds: list[Hold] = field(default_factory=list)
    restored: list[OrderId] = field(default_factory=list)
    units: dict[ProductId, int] = field(default_factory=dict)


def decide(
    commands: Sequence[Command],
    closed: Collection[UUID],
    stored: Mapping[OutcomeKey, Outcome],
    stock: Mapping[ProductId, Stock],
    held: Mapping[OrderId, Units],
    past: Collection[UUID] = (),
) -> Decision:
    """Decide a batch in arrival order.

    `closed`, `stored`, `past`: the protocol's, of the batch's orders. `stock`: every product that the batch
    names or that its orders hold. `held`: what its orders hold by product, in units.
    """
    desk = _Desk(stock, held)
    verdict = protocol.decide(commands, closed, stored, desk.hold, desk.restore, past)
    changed = {product: units for product, units in desk.units.items() if units != stock[product].units}
    return Decision(verdict, list(desk.holds.values()), desk.restored, changed)


class _Desk:
    """The working copy of one batch."""

    def __init__(self, stock: Mapping[ProductId, Stock], held: Mapping[OrderId, Units]) -> None:
        self._stock = stock
        self._held = held
        self.units: dict[ProductId, int] = {product: item.units for product, item in stock.items()}
        self.holds: dict[tuple[OrderId, ProductId], Hold] = {}
        self.restored: list[OrderId] = []

    def hold(self, command: Command) -> Mapping[str, Any]:
        assert isinstance(command, HoldStock)
        unknown = [product for product, _ in command.lines if product not in self._stock]
        if unknown:
            raise ProductNotFound(f"There is no product {', '.join(unknown)}.", product_ids=unknown)
        short = [product for product, quantity in command.lines if self.units[product] < quantity]
        if short:
            raise OutOfStock(f"Too few units of {', '.join(short)}.", product_ids=short)
        lines = []
        for product, quantity in command.lines:
            item = self._stock[product]
            self.units[product] -= quantity
            self.holds[command.order_id, product] = Hold(command.order_id, product, quantity, item.price)
            lines.append({"product_id": product, "name": item.name, "quantity": quantity, "unit_price": item.price})
        return {"lines": lines}

    def restore(self, command: Command) -> Mapping[str, Any]:
        stored = self._held.get(command.order_id, {})
        for product, quantity in stored.items():
            self.units[product] += quantity
        if stored:
            self.restored.append(command.order_id)
        # A hold of this very batch: undone before it was ever written.
        for place in [place for place in self.holds if place[0] == command.order_id]:
            self.units[place[1]] += self.holds.pop(place).quantity
        return {}


def check_stock_move(stock: int, put_in: int, delta: int) -> None:
    """Check a delivery (delta > 0) or removal (delta < 0) of units. Raises OutOfStock or StockTooLarge.

    Bounding what was ever put in keeps every later restore within a bigint as well.
    """
    if stock + delta < 0:
        raise OutOfStock(f"There are {stock} units free to remove.")
    if put_in + delta > UNITS_MAX:
        raise StockTooLarge
