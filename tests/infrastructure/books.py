"""Checks the books of all services, order by order, from the databases themselves.

It shares no code with the services, so that it finds their errors. Run it when no saga is live: any difference is then
lost or invented. From a shell: `python -m tests.infrastructure.books DATABASE_URL`.
"""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

SERVICES = ("order", "product", "coupon", "balance")
KEEPING = ("PAID", "PENDING_PAYMENT")  # orders that keep their stock and coupon
LAST_EVENT = {"EXPIRED": "order.expired.v1", "CANCELLED": "order.cancelled.v1", "REFUNDED": "order.refunded.v1"}

Row = Mapping[str, Any]

QUERIES = {
    "orders": ("order", "SELECT * FROM orders.orders"),
    "live_sagas": ("order", "SELECT * FROM orders.sagas WHERE status IN ('RUNNING', 'COMPENSATING')"),
    # A key whose saga was refused has its answer in the saga's row.
    "keys": (
        "order",
        "SELECT k.* FROM orders.idempotency_keys AS k LEFT JOIN orders.sagas AS s USING (saga_id) "
        "WHERE k.status IS NULL AND (s.ended_at IS NULL OR s.problem IS NULL)",
    ),
    "outbox": ("order", "SELECT * FROM orders.outbox ORDER BY order_id, sequence"),
    "products": ("product", "SELECT * FROM products.products"),
    "holds": ("product", "SELECT * FROM products.holds WHERE status = 'HELD'"),
    "coupons": ("coupon", "SELECT * FROM coupons.coupons"),
    "accounts": ("balance", "SELECT * FROM balances.accounts"),
    "entries": ("balance", "SELECT * FROM balances.entries ORDER BY user_id, number"),
}


@dataclass(slots=True)
class Books:
    """All rows, and by order: units held, coupons taken, money paid, events."""

    rows: Mapping[str, Sequence[Row]]
    orders: dict[UUID, Row] = field(default_factory=dict)
    held: dict[UUID, dict[str, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))
    coupons: dict[UUID, list[Row]] = field(default_factory=lambda: defaultdict(list))
    paid: dict[UUID, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    events: dict[UUID, list[Row]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.orders = {order["order_id"]: order for order in self.rows["orders"]}
        for hold in self.rows["holds"]:
            self.held[hold["order_id"]][hold["product_id"]] = (hold["quantity"], hold["unit_price"])
        for coupon in self.rows["coupons"]:
            if coupon["order_id"] is not None:
                self.coupons[coupon["order_id"]].append(coupon)
        for entry in self.rows["entries"]:
            if entry["order_id"] is not None:
                self.paid[entry["order_id"]][entry["user_id"]] -= entry["amount"]
        for event in self.rows["outbox"]:
            self.events[event["order_id"]].append(event)


# The database with all schemas, or one each for order, product, coupon and balance, or several of cells and shards.
Urls = str | Mapping[str, str | Sequence[str]]


async def violations(urls: Urls) -> list[str]:
    """Return a line for everything that does not balance, all cells and product shards together."""
    given = dict.fromkeys(SERVICES, urls) if isinstance(urls, str) else urls
    by_service = {name: {of} if isinstance(of, str) else set(of) for name, of in given.items()}
    rows: dict[str, list[Row]] = {name: [] for name in QUERIES}
    for url in set().union(*by_service.values()):
        queries = {name: sql for name, (service, sql) in QUERIES.items() if url in by_service[service]}
        for name, found in (await _read(url, queries)).items():
            rows[name] += found
    books = Books(rows)
    checks = (_unfinished, _order_books, _orphans, _stock, _ledger)
    return [line for check in checks for line in check(books)]


async def _read(url: str, queries: Mapping[str, str]) -> dict[str, Sequence[Row]]:
    connection = await asyncpg.connect(url)
    try:
        return {name: [dict(row) for row in await connection.fetch(sql)] for name, sql in queries.items()}
    finally:
        await connection.close()


def _unfinished(books: Books) -> Iterator[str]:
    """Yield what has not ended: sagas, orders and idempotency keys."""
    for saga in books.rows["live_sagas"]:
        yield f"order {saga['order_id']}: its saga {saga['kind']} is still {saga['status']}"
    for order in books.rows["orders"]:
        if order["status"] in ("PLACING", "PAYING") or order["closing"]:
            yield f"order {order['order_id']}: is still {order['status']}, closing {order['closing']}"
    for key in books.rows["keys"]:
        yield f"idempotency key {key['key']} of {key['user_id']}: has no answer"


def _order_books(books: Books) -> Iterator[str]:
    """Compare what each order has at each participant, and its events, with its status."""
    for order_id, order in books.orders.items():
        expected: dict[str, Any] = {
            "held": _expected_holds(order),
            "coupons": _expected_coupons(order),
            "paid": _expected_money(order),
            "events": [(n, event) for n, event in enumerate(_expected_events(order), 1)],
        }
        coupons = books.coupons.get(order_id, [])
        events = books.events.get(order_id, [])
        found: dict[str, Any] = {
            "held": books.held.get(order_id, {}),
            "coupons": [(coupon["coupon_id"], coupon["status"], coupon["discount_amount"]) for coupon in coupons],
            "paid": {user: amount for user, amount in books.paid.get(order_id, {}).items() if amount},
            "events": [(event["sequence"], event["type"]) for event in events],
        }
        for what, due in expected.items():
            if found[what] != due:
                yield f"order {order_id} is {order['status']}: {what} is {found[what]}, not {due}"
        if order["event_sequence"] != len(events):
            yield f"order {order_id}: counts {order['event_sequence']} events, has {len(events)}"
        yield from _event_data(order, events)


def _expected_holds(order: Row) -> Mapping[str, tuple[int, int]]:
    if order["status"] not in KEEPING:
        return {}
    lines = json.loads(order["lines"])
    return {line["product_id"]: (line["quantity"], line["unit_price"]) for line in lines}


def _expected_coupons(order: Row) -> list[tuple[str, str, int]]:
    if order["status"] not in KEEPING or order["coupon_id"] is None:
        return []
    return [(order["coupon_id"], "REDEEMED" if order["status"] == "PAID" else "RESERVED", order["discount_amount"])]


def _expected_money(order: Row) -> Mapping[str, int]:
    """Return the paid amount per user; none for a total of 0, which is paid without a debit."""
    paid = order["status"] == "PAID" and order["total_amount"] > 0
    return {order["user_id"]: order["total_amount"]} if paid else {}


def _expected_events(order: Row) -> list[str]:
    """Return the types of the due events. Only an order to be paid later has an `expires_at` and a placement event."""
    if order["status"] == "REJECTED":
        return []
    placed = [] if order["expires_at"] is None else ["order.placed.v1"]
    paid = ["order.paid.v1"] if order["paid_at"] is not None else []
    last = [LAST_EVENT[order["status"]]] if order["status"] in LAST_EVENT else []
    return placed + paid + last


def _event_data(order: Row, events: Sequence[Row]) -> Iterator[str]:
    """Yield events whose data is not the order as it was then; names and amounts never change."""
    for event in events:
        data = json.loads(event["payload"])
        status = {"placed": "PENDING_PAYMENT"}.get(name := event["type"].split(".")[1], name.upper())
        described = (data["order_id"], data["status"], data["total_amount"], data["discount_amount"])
        if described != (str(order["order_id"]), status, order["total_amount"], order["discount_amount"]):
            yield f"order {order['order_id']}: its event {event['type']} describes {described}"


def _orphans(books: Books) -> Iterator[str]:
    """Yield what is held for orders that do not exist."""
    kept: Mapping[str, Mapping[UUID, object]] = {
        "stock": books.held,
        "a coupon": books.coupons,
        "money": {one: paid for one, paid in books.paid.items() if any(paid.values())},  # not what was refunded
        "events": books.events,
    }
    for what, orders in kept.items():
        for order_id in orders.keys() - books.orders.keys():
            yield f"order {order_id} does not exist: {what} is kept for it"


def _stock(books: Books) -> Iterator[str]:
    """Yield products whose free and held units do not equal the units put in."""
    held: dict[str, int] = defaultdict(int)
    for hold in books.rows["holds"]:
        held[hold["product_id"]] += hold["quantity"]
    for product in books.rows["products"]:
        units = held[product["product_id"]]
        if product["stock"] + units != product["put_in"]:
            yield f"product {product['product_id']}: {product['stock']} free + {units} held, put in {product['put_in']}"


def _ledger(books: Books) -> Iterator[str]:
    """Yield accounts that are not the sum of their numbered entries, or whose entries have a wrong balance."""
    entries: dict[str, list[Row]] = defaultdict(list)
    for entry in books.rows["entries"]:
        entries[entry["user_id"]].append(entry)
    for account in books.rows["accounts"]:
        user, balance = account["user_id"], 0
        for number, entry in enumerate(entries[user], 1):
            balance += entry["amount"]
            if (entry["number"], entry["balance_after"]) != (number, balance):
                yield f"account {user}: entry {entry['number']} leaves {entry['balance_after']}, not {balance}"
        charged = sum(entry["amount"] for entry in entries[user] if entry["kind"] == "charge")
        if (account["balance"], account["charged"]) != (balance, charged):
            yield f"account {user}: has {account['balance']} of {account['charged']}, not {balance} of {charged}"


def main() -> None:
    """Print the violations; exit 1 if there are any."""
    lines = asyncio.run(violations(sys.argv[1]))
    print("\n".join(lines) or "Everything adds up.")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
