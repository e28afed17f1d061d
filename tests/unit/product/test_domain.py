"""The rules of stock: all lines or none, no unit is created or lost, an undo is permanent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.product.domain import (
    UNITS_MAX,
    Batch,
    Command,
    Hold,
    HoldStock,
    OrderId,
    ProductId,
    RestoreStock,
    Stock,
    StockTooLarge,
    check_stock_move,
)
from shared.contracts.refusals import OutOfStock
from shared.participant.protocol import FENCED, Outcome
from tests.unit.protocol import ORDERS, Protocol, assert_repeats_are_answered_alike

PRODUCTS = [ProductId(name) for name in ("a", "b", "c")]
UNKNOWN = ProductId("unknown")
A, B, C = PRODUCTS
ORDER, OTHER, THIRD = (OrderId(order) for order in ORDERS)


@dataclass
class World:
    """The tables in memory; `run` loads and writes like services/product/batch.py."""

    stock: dict[ProductId, Stock]
    protocol: Protocol = field(default_factory=Protocol)
    held: dict[tuple[OrderId, ProductId], Hold] = field(default_factory=dict)
    restored: set[tuple[OrderId, ProductId]] = field(default_factory=set)

    @classmethod
    def of(cls, **units: int) -> "World":
        return cls({ProductId(name): Stock(name.upper(), 100, count) for name, count in units.items()})

    def run(self, *commands: Command) -> Sequence[Outcome]:
        undone = {c.gate for c in commands if isinstance(c, RestoreStock)} - self.protocol.closed
        held: dict[OrderId, dict[ProductId, int]] = {}
        for (order, product), hold in self.held.items():
            if order in undone:
                held.setdefault(order, {})[product] = hold.quantity
        batch = Batch(self.stock, held)
        outcomes = self.protocol.run(commands, batch)
        for order in batch.restored:
            for place in [place for place in self.held if place[0] == order]:
                del self.held[place]
                self.restored.add(place)
        for hold in batch.holds.values():
            place = (hold.order_id, hold.product_id)
            assert place not in self.held, "an order holds a product once"
            assert place not in self.restored, "an order holds a product once"
            self.held[place] = hold
        for product, units in batch.changed.items():
            self.stock[product] = replace(self.stock[product], units=units)
        return outcomes

    def units(self) -> dict[str, int]:
        return {product: item.units for product, item in self.stock.items()}

    def put_in(self) -> dict[str, int]:
        held = {product: sum(h.quantity for h in self.held.values() if h.product_id == product) for product in PRODUCTS}
        return {product: item.units + held[product] for product, item in self.stock.items()}


def hold(order: UUID, **quantities: int) -> HoldStock:
    return HoldStock(OrderId(order), 0, tuple((ProductId(name), count) for name, count in quantities.items()))


lines = st.lists(
    st.tuples(st.sampled_from([*PRODUCTS, UNKNOWN]), st.integers(1, 4)),
    min_size=1,
    max_size=3,
    unique_by=lambda x: x[0],
)
orders = st.sampled_from([ORDER, OTHER, THIRD])
commands = st.one_of(
    st.builds(HoldStock, gate=orders, attempt=st.just(0), lines=lines.map(tuple)),
    st.builds(RestoreStock, gate=orders),
)
worlds = st.builds(World.of, a=st.integers(0, 6), b=st.integers(0, 6), c=st.integers(0, 6))
batches = st.lists(st.lists(commands, min_size=1, max_size=5), max_size=4)


@given(worlds, batches)
def test_no_unit_is_made_or_lost_and_none_is_sold_twice(world: World, batches: list[list[Command]]) -> None:
    before = world.put_in()
    for batch in batches:
        world.run(*batch)
        assert world.put_in() == before
        assert all(units >= 0 for units in world.units().values())


@given(worlds, batches)
def test_an_order_holds_all_lines_it_was_granted_or_none(world: World, batches: list[list[Command]]) -> None:
    for batch in batches:
        world.run(*batch)
    granted = {
        (order, line["product_id"], line["quantity"])
        for (order, kind, _), outcome in world.protocol.stored.items()
        if kind == "hold_stock" and outcome.applied and order not in world.protocol.closed
        for line in outcome.body["lines"]
    }
    assert granted == {(hold.order_id, hold.product_id, hold.quantity) for hold in world.held.values()}


@given(worlds, batches)
def test_batching_changes_no_outcome(world: World, batches: list[list[Command]]) -> None:
    alone = World(dict(world.stock))
    for batch in batches:
        assert list(world.run(*batch)) == [alone.run(command)[0] for command in batch]
    assert world.units() == alone.units()


@given(worlds, st.lists(commands, min_size=1, max_size=8))
def test_repeated_batch_gets_the_same_answers_and_changes_nothing(world: World, batch: list[Command]) -> None:
    outcomes = world.run(*batch)
    units = world.units()
    repeated = world.run(*batch)
    assert_repeats_are_answered_alike(batch, outcomes, repeated, world.protocol.closed)
    assert world.units() == units


def test_a_hold_takes_the_units_and_prices_its_lines() -> None:
    world = World.of(a=5, b=5)
    (outcome,) = world.run(hold(ORDER, a=2, b=5))
    assert outcome.body == {
        "lines": [
            {"product_id": "a", "name": "A", "quantity": 2, "unit_price": 100},
            {"product_id": "b", "name": "B", "quantity": 5, "unit_price": 100},
        ]
    }
    assert world.units() == {"a": 3, "b": 0}


def test_one_short_line_refuses_the_whole_order_and_names_the_products() -> None:
    world = World.of(a=5, b=1, c=0)
    (outcome,) = world.run(hold(ORDER, a=2, b=2, c=1))
    assert (outcome.applied, outcome.body["type"]) == (False, "/problems/out-of-stock")
    assert (outcome.body["status"], outcome.body["product_ids"]) == (400, ["b", "c"])
    assert world.units() == {"a": 5, "b": 1, "c": 0}


def test_unknown_product_is_reported_before_a_lack_of_stock() -> None:
    (outcome,) = World.of(a=0).run(hold(ORDER, a=1, unknown=1))
    assert outcome.body["type"] == "/problems/product-not-found"
    assert (outcome.body["status"], outcome.body["product_ids"]) == (404, ["unknown"])


@pytest.mark.parametrize(
    ("unknown", "detail"),
    [
        (["tea"], "There is no product tea."),
        (["tea", "cup"], "There is no product tea, cup."),
        (["a" * 50, "b" * 48, "c"], f"There is no product {'a' * 50}, {'b' * 48} and 1 more."),
        (["a" * 128, "b", "c"], f"There is no product {'a' * 100}… and 2 more."),
        (["a" * 128], f"There is no product {'a' * 100}…."),
    ],
)
def test_refusals_text_names_few_products_and_its_members_all(unknown: list[str], detail: str) -> None:
    (outcome,) = World.of().run(hold(ORDER, **dict.fromkeys(unknown, 1)))
    assert outcome.body["detail"] == detail
    assert outcome.body["product_ids"] == unknown


def test_refused_large_order_leaves_its_units_to_a_later_small_order() -> None:
    world = World.of(a=5)
    large, small = world.run(hold(ORDER, a=6), hold(OTHER, a=5))
    assert (large.applied, small.applied) == (False, True)


def test_a_stored_refusal_stays_when_stock_has_come() -> None:
    world = World.of(a=0)
    first = world.run(hold(ORDER, a=1))
    world.stock[A] = replace(world.stock[A], units=9)
    assert world.run(hold(ORDER, a=1)) == first


def test_restored_units_can_be_held_by_a_later_command_of_the_batch() -> None:
    world = World.of(a=3)
    world.run(hold(ORDER, a=3))
    restored, held = world.run(RestoreStock(ORDER), hold(OTHER, a=3))
    assert restored.applied
    assert held.applied
    assert world.units() == {"a": 0}


def test_a_late_hold_after_its_undo_is_fenced_even_if_it_was_never_seen() -> None:
    world = World.of(a=3)
    assert world.run(RestoreStock(ORDER))[0].applied
    assert world.run(hold(ORDER, a=1)) == [FENCED]
    assert world.units() == {"a": 3}


@pytest.mark.parametrize(("stock", "put_in", "delta"), [(0, 0, 5), (5, 5, -5), (1, UNITS_MAX - 1, 1)])
def test_units_can_be_put_in_and_taken_out(stock: int, put_in: int, delta: int) -> None:
    check_stock_move(stock, put_in, delta)


def test_more_units_than_are_free_can_not_be_taken_out() -> None:
    with pytest.raises(OutOfStock):
        check_stock_move(4, 9, -5)


def test_units_ever_put_in_stay_within_a_bigint_so_that_no_restore_overflows() -> None:
    with pytest.raises(StockTooLarge):
        check_stock_move(0, UNITS_MAX, 1)
