"""One function per query of queries.sql; each takes a connection, so that its caller owns the transaction."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.product.domain import Batch, Hold, HoldStock, OrderId, ProductExists, ProductId, Stock, Units
from shared.participant.gates import Gates, gate_queries
from shared.participant.protocol import Outcome
from shared.participant.routes import book_check
from shared.postgres.connections import Connection, Row, load_queries
from shared.slots import Ownership

SQL = {**gate_queries("products", "order_id"), **load_queries(Path(__file__).parent / "queries.sql")}
# Restored holds are deleted with their gate; an undo needs the HELD ones.
GATES = Gates(SQL, forgotten_too=["delete_restored"])
# How many orders are read for each that is returned to the audit of one cell. With more cells, its pages are smaller.
READ_FACTOR = 16


async def create_product(db: Connection, product_id: str, name: str, price: int, stock: int) -> Row:
    """Insert a product. Raises ProductExists."""
    try:
        row = await db.fetchrow(SQL["create_product"], product_id, name, price, stock)
    except asyncpg.UniqueViolationError:
        raise ProductExists(f"There is a product {product_id} already.") from None
    assert row is not None
    return row


async def get_product(db: Connection, product_id: str) -> Row | None:
    """Return a product or None."""
    return await db.fetchrow(SQL["get_product"], product_id)


async def list_products(db: Connection, after: str, limit: int) -> list[Row]:
    """Return up to `limit` products with an id above `after`, by id."""
    return await db.fetch(SQL["list_products"], after, limit)


async def change_product(db: Connection, product_id: str, name: str | None, price: int | None) -> Row | None:
    """Change what is not None and return the product, or None if there is no such product."""
    return await db.fetchrow(SQL["change_product"], product_id, name, price)


async def lock_product(db: Connection, product_id: str) -> Row | None:
    """Lock a product and return its stock and put_in, or None."""
    return await db.fetchrow(SQL["lock_product"], product_id)


async def move_stock(db: Connection, product_id: str, delta: int) -> Row:
    """Add `delta` units to a locked product."""
    row = await db.fetchrow(SQL["move_stock"], product_id, delta)
    assert row is not None
    return row


async def read_holds(db: Connection, orders: Sequence[UUID]) -> dict[OrderId, Units]:
    """Return the units that each order holds, by product."""
    held: dict[OrderId, dict[ProductId, int]] = {}
    for row in await db.fetch(SQL["read_holds"], orders):
        held.setdefault(row["order_id"], {})[row["product_id"]] = row["quantity"]
    return dict(held)


async def lock_stock(db: Connection, products: Sequence[ProductId]) -> dict[ProductId, Stock]:
    """Lock the products in order of id; return the existing ones."""
    rows = await db.fetch(SQL["lock_stock"], products)
    return {row["product_id"]: Stock(row["name"], row["price"], row["stock"]) for row in rows}


async def write_holds(db: Connection, holds: Collection[Hold]) -> None:
    """Insert holds."""
    await db.execute(
        SQL["write_holds"],
        [hold.order_id for hold in holds],
        [hold.product_id for hold in holds],
        [hold.quantity for hold in holds],
        [hold.unit_price for hold in holds],
    )


async def write_restored(db: Connection, orders: Sequence[OrderId]) -> None:
    """Mark the orders' holds as RESTORED."""
    await db.execute(SQL["write_restored"], orders)


async def write_stock(db: Connection, units: dict[ProductId, int]) -> None:
    """Set the free stock of locked products."""
    await db.execute(SQL["write_stock"], list(units), list(units.values()))


async def hold_in_one_statement(db: Connection, holds: Sequence[HoldStock]) -> dict[UUID, Outcome]:
    """Hold stock for the orders whose hold succeeds in any case; return their outcomes."""
    wanted: Counter[ProductId] = Counter()
    for hold in holds:
        for product, quantity in hold.lines:
            wanted[product] += quantity
    lines = [(hold, product, quantity) for hold in holds for product, quantity in hold.lines]
    rows = await db.fetch(
        SQL["hold_in_one_statement"],
        sorted(hold.gate for hold in holds),
        [hold.gate for hold, _, _ in lines],
        [len(hold.lines) for hold, _, _ in lines],
        [product for _, product, _ in lines],
        [quantity for _, _, quantity in lines],
        [wanted[product] for _, product, _ in lines],
    )
    return {row["order_id"]: Outcome(True, row["body"]) for row in rows}


async def list_holds(db: Connection, after: UUID, until: UUID, limit: int) -> list[Row]:
    """Return the current holds of up to `limit` orders after `after` and up to `until`, by order."""
    return await db.fetch(SQL["list_holds"], after, until, limit)


async def list_own_holds(
    db: Connection, after: UUID, until: UUID, limit: int, ownership: Ownership, read_factor: int = READ_FACTOR
) -> tuple[list[Row], UUID]:
    """Return the same for the orders of one cell, and the last order of any cell that was read.

    At most `limit` times `read_factor` orders are read. If there are no more, the last one is the greatest id.
    """
    rows = await db.fetch(
        SQL["list_own_holds"],
        after,
        until,
        limit,
        limit * read_factor,
        ownership.bits,
        ownership.since,
        ownership.older,
    )
    last = next(row["order_id"] for row in rows if row["holds"] is None)
    return [row for row in rows if row["holds"] is not None], last


async def check_books(db: Connection) -> dict[str, Any]:
    """Return this service's own checks and totals, as shared/contracts/books.py describes them."""
    totals = await db.fetchrow(SQL["read_totals"])
    assert totals is not None
    return {
        "checks": [book_check("stock + held = put in", await db.fetch(SQL["check_stock"]))],
        "totals": {name: int(value) for name, value in totals.items()},
    }


async def write_batch(db: Connection, batch: Batch) -> None:
    """Write what a batch changes: at most three statements, however large the batch."""
    if batch.restored:
        await write_restored(db, batch.restored)
    if batch.holds:
        await write_holds(db, batch.holds.values())
    if changed := batch.changed:
        await write_stock(db, changed)
