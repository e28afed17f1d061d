"""What must be true before slots move: the cells have the same tables, and no row would be left behind."""

from typing import Any

from psycopg import sql

from deploy.slots.databases import Cell, RefusedError
from deploy.slots.tables import COUPONS, ORDERS, SERVICES, USER, Moved, Service, Table

SHOWN = 5
_COLUMNS = """
    SELECT quote_ident(attname), format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attname
"""


def check_cells(source: Cell, target: Cell) -> None:
    """Raise RefusedError unless the tables of both cells have the same columns."""
    for service in SERVICES:
        for table in service.tables:
            if columns(source, service, table) != columns(target, service, table):
                raise RefusedError(
                    f"{service.schema}.{table.name} differs between the cells: bring both to the same version"
                )


def columns(cell: Cell, service: Service, table: Table) -> list[tuple[Any, ...]]:
    """Return the columns of a table that are copied, by name, each with its type."""
    return cell.of(service).execute(_COLUMNS, (f"{service.schema}.{table.name}",)).fetchall()


def check_movable(source: Cell, target: Cell, moved: Moved) -> None:
    """Raise RefusedError if some rows of these slots can't move, or would be left behind. Reads whole tables."""
    slots = sorted(moved.slots)
    db = source.of(ORDERS)
    stray = db.execute(
        """
        SELECT order_id::text FROM orders.orders
        WHERE (orders.slot_of(user_id) = ANY (%(slots)s::smallint[])
               OR orders.slot_in(order_id) = ANY (%(slots)s::smallint[]) AND order_id >= %(first)s)
          AND NOT (order_id >= %(first)s AND orders.slot_in(order_id) = orders.slot_of(user_id))
        LIMIT %(limit)s
        """,
        {"slots": slots, "first": moved.first_id, "limit": SHOWN},
    ).fetchall()
    if stray:
        raise RefusedError(
            "users of these slots have orders whose ids don't contain their slot; such orders stay in the cell with"
            f" `older`, so their users must too: {_listed(stray)}"
        )
    for service in SERVICES:
        check_empty(target, service, moved)
    ids = [row[0] for row in source.of(COUPONS).execute(_coupon_ids(moved)).fetchall()]
    both = (
        target.of(COUPONS)
        .execute("SELECT coupon_id FROM coupons.coupons WHERE coupon_id = ANY (%s) LIMIT %s", (ids, SHOWN))
        .fetchall()
    )
    if both:
        raise RefusedError(f"both cells have coupons with these ids: {_listed(both)}")


def check_empty(target: Cell, service: Service, moved: Moved) -> None:
    """Raise RefusedError if the target has rows of these slots."""
    for table in service.tables:
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
            service.place(table.name), service.rows(table, moved)
        )
        if target.of(service).execute(query).fetchone() == (True,):
            raise RefusedError(
                f"{service.schema}.{table.name} of the target has rows of these slots: if they have moved away from it"
                " before, delete them there first; if it is their cell, the addresses are mixed up"
            )


def _coupon_ids(moved: Moved) -> sql.Composed:
    coupons = next(table for table in COUPONS.tables if table.by == USER)
    return sql.SQL("SELECT coupon_id FROM {} WHERE {}").format(
        COUPONS.place(coupons.name), COUPONS.rows(coupons, moved)
    )


def _listed(rows: list[tuple[Any, ...]]) -> str:
    return ", ".join(str(row[0]) for row in rows) + (" …" if len(rows) == SHOWN else "")
