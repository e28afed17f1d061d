"""Checks the invariants of the reference model after every commit, whatever faults came before.

- A hold counts at most once, and so does a debit. Stock and balances are never negative. Units and money are conserved.
- No order expires early, and no payment begins late.
- An order has at most one live saga. Its events have no gaps and are legal for its status.
- An order without a live saga has exactly its holds, its coupon and its debit.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from tests.simulation.memory.orders import OrdersDatabase
from tests.simulation.memory.participants import BalancesDatabase, CouponsDatabase, ProductsDatabase
from tests.simulation.memory.tables import Row

PLACED, PAID = ("order.placed.v1",), ("order.paid.v1",)
EVENTS_LEGAL: dict[str, tuple[tuple[str, ...], ...]] = {
    "PLACING": ((),),
    "REJECTED": ((),),
    "PENDING_PAYMENT": (PLACED,),
    "PAYING": (PLACED,),
    "PAID": (PAID, PLACED + PAID),
    "EXPIRED": ((*PLACED, "order.expired.v1"),),
    "CANCELLED": ((*PLACED, "order.cancelled.v1"),),
    "REFUNDED": ((*PAID, "order.refunded.v1"), (*PLACED, *PAID, "order.refunded.v1")),
}
COUPON_AT_REST = {"PAID": "REDEEMED", "PENDING_PAYMENT": "RESERVED"}


class ViolationError(AssertionError):
    """An invariant does not hold."""


def demand(holds: object, what: str, *values: object) -> None:
    """Raise ViolationError unless the condition holds. `values` are formatted into the message `what` only then."""
    if not holds:
        raise ViolationError(what.format(*values))


def check(
    orders: OrdersDatabase, shards: Iterable[ProductsDatabase], coupons: CouponsDatabase, balances: BalancesDatabase
) -> None:
    """Raise ViolationError unless every invariant holds. `shards`: the databases of the product service."""
    held: dict[UUID, dict[str, int]] = defaultdict(dict)
    for products in shards:
        for order_id, units in _check_stock(products, orders).items():
            held[order_id].update(units)
    net = _check_ledger(balances)
    coupon_of = {row["order_id"]: row for row in coupons.coupons if row["order_id"] is not None}
    sagas: dict[UUID, int] = defaultdict(int)
    for saga in orders.live():
        sagas[saga["order_id"]] += 1
        if saga["kind"] == "pay":
            order = orders.orders.rows[saga["order_id"]]
            demand(saga["started_at"] < order["expires_at"], "a payment began after {} expired", order["order_id"])
    events: dict[UUID, dict[int, str]] = defaultdict(dict)
    for event in orders.outbox:
        events[event["order_id"]][event["sequence"]] = event["type"]
    for order in orders.orders:
        order_id = order["order_id"]
        _check_order(order, sagas[order_id], events[order_id])
        _check_expiry(order, orders.clock())
        _check_effects(order, net[order_id], coupon_of.get(order_id))
        if not sagas[order_id]:
            _check_at_rest(order, held[order_id], net[order_id], coupon_of.get(order_id))


def _check_stock(products: ProductsDatabase, orders: OrdersDatabase) -> dict[UUID, dict[str, int]]:
    """Check the units of one database and return what each order holds there: all that it wants there, or nothing."""
    held: dict[UUID, dict[str, int]] = defaultdict(dict)
    total: dict[str, int] = defaultdict(int)
    for hold in products.holds:
        if hold["status"] == "HELD":
            held[hold["order_id"]][hold["product_id"]] = hold["quantity"]
            total[hold["product_id"]] += hold["quantity"]
    for row in products.products:
        demand(row["stock"] >= 0, "stock is negative: {}", row)
        demand(
            row["stock"] + total[row["product_id"]] == row["put_in"],
            "stock and held units differ from the units put in: {}",
            row,
        )
    for order_id, units in held.items():
        if (order := orders.orders.get(order_id)) is not None:
            here = {name: count for name, count in _wanted(order).items() if name in products.products.rows}
            demand(units == here, "order {0[order_id]} ({0[status]}) holds {1}, not {2}", order, units, here)
    return held


def _check_ledger(balances: BalancesDatabase) -> dict[UUID, int]:
    net: dict[UUID, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for entry in balances.entries:
        total[entry["user_id"]] += entry["amount"]
        if entry["order_id"] is not None:
            net[entry["order_id"]] -= entry["amount"]
    for row in balances.accounts:
        demand(row["balance"] >= 0, "balance is negative: {}", row)
        demand(row["balance"] == total[row["user_id"]], "the sum of the entries is not the balance: {}", row)
    return net


def _check_order(order: Row, sagas: int, events: dict[int, str]) -> None:
    demand(sagas <= 1, "{0} live sagas of {1[status]} order {1[order_id]}", sagas, order)
    types = tuple(events[sequence] for sequence in sorted(events))
    demand(len(types) == order["event_sequence"] == max(events, default=0), "events have gaps: {} of {}", events, order)
    demand(types in EVENTS_LEGAL[order["status"]], "events {0} of {1[status]} order {1[order_id]}", types, order)


def _check_expiry(order: Row, now: datetime) -> None:
    expired = "EXPIRED" in (order["status"], order["closing"])
    demand(not expired or order["expires_at"] <= now, "{} expired before its time", order["order_id"])


def _wanted(order: Row) -> dict[str, int]:
    return {line["product_id"]: line["quantity"] for line in order["lines"]}


def _check_effects(order: Row, net: int, coupon: Row | None) -> None:
    total = order["total_amount"]
    demand(net == 0 or total is None or net == total, "order {0[order_id]} has net debits {1}", order, net)
    demand(net >= 0, "order {0[order_id]} was refunded more than it paid: {1}", order, net)
    demand(coupon is None or coupon["coupon_id"] == order["coupon_id"], "another order's coupon: {} {}", order, coupon)


def _check_at_rest(order: Row, held: dict[str, int], net: int, coupon: Row | None) -> None:
    status = order["status"]
    name = "order {0[order_id]} ({0[status]}), without a live saga, "
    demand(status not in ("PLACING", "PAYING"), name + "can never move", order)
    demand(order["closing"] is None, name + "never stops closing", order)
    alive = status in COUPON_AT_REST
    demand(held == _wanted(order) if alive else not held, name + "holds {1}", order, held)
    demand(net == (order["total_amount"] if status == "PAID" else 0), name + "has net debits {1}", order, net)
    wanted = COUPON_AT_REST.get(status) if order["coupon_id"] else None
    found = coupon["status"] if coupon else None
    demand(found == wanted, name + "has its coupon {1}, not {2}", order, found, wanted)
