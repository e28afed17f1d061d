"""Copies the rows of slots to another cell, and compares what arrived with what left."""

import hashlib
from collections.abc import Callable

from psycopg import IsolationLevel, sql
from psycopg.errors import UniqueViolation

from deploy.slots.checks import columns
from deploy.slots.databases import Cell, Connection, RefusedError, advance
from deploy.slots.tables import ORDERS, USER, Moved, Service, Table

Say = Callable[[str], None]


def copy(source: Cell, target: Cell, service: Service, moved: Moved, say: Say) -> None:
    """Copy a service's rows in one transaction of the target, which also notes that they have arrived.

    Each table is read in the order of its key, in Postgres' binary format, and written as it was read. Then the rows of
    the target are read in the same way, before the commit. Both digests must be equal. The source is read in one
    snapshot, so rows that retention deletes there meanwhile are no difference. Raises RefusedError.
    """
    reader, writer = source.of(service), target.of(service)
    reader.isolation_level, reader.read_only = IsolationLevel.REPEATABLE_READ, True
    try:
        with writer.transaction(), reader.transaction():
            # First: it is refused if another command has cancelled the move, and none can while this writes.
            advance(target, service, moved, "arriving", "arrived")
            # For the triggers on closed slots, which refuse every other insert.
            writer.execute("SELECT set_config('slots.copying', 'on', true)")
            for table in service.tables:
                _copy_table(source, target, service, table, moved, say)
            if service is ORDERS:
                _note_sequences(writer, moved)
    except UniqueViolation as error:
        raise RefusedError(
            f"the new cell has a row with the same key, so cancel: {error.diag.message_detail}"
        ) from None
    finally:
        reader.isolation_level, reader.read_only = None, None


def delete(cell: Cell, service: Service, moved: Moved, say: Say) -> None:
    """Delete a service's rows of slots that another cell has, in the caller's transaction."""
    connection = cell.of(service)
    if service is ORDERS:
        _forget_sequences(connection, moved)
    for table in reversed(service.tables):
        query = sql.SQL("DELETE FROM {} WHERE {}").format(service.place(table.name), service.rows(table, moved))
        say(f"{service.schema}.{table.name}: {connection.execute(query).rowcount} rows deleted {cell.name} the cell")


def _copy_table(source: Cell, target: Cell, service: Service, table: Table, moved: Moved, say: Say) -> None:
    names = sql.SQL(", ").join(sql.SQL(name) for name, _ in columns(source, service, table))
    place = service.place(table.name)
    # Text in the order of its bytes: the databases may sort it differently.
    key = [
        sql.SQL('{} COLLATE "C"' if name in (USER, "operation", "key", "type", "coupon_id") else "{}").format(
            sql.Identifier(name)
        )
        for name in table.key
    ]
    read = sql.SQL("COPY (SELECT {} FROM {} WHERE {} ORDER BY {}) TO STDOUT (FORMAT BINARY)").format(
        names, place, service.rows(table, moved), sql.SQL(", ").join(key)
    )
    write = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(place, names)
    left, rows = hashlib.sha256(), 0
    with source.of(service).cursor() as out, target.of(service).cursor() as into:
        with out.copy(read) as leaving, into.copy(write) as arriving:
            for block in leaving:
                left.update(block)
                arriving.write(block)
        rows = into.rowcount
    arrived = _digest(target.of(service), read)
    if left.digest() != arrived:
        raise RefusedError(f"{service.schema}.{table.name}: what arrived differs from what left, so nothing was copied")
    say(f"{service.schema}.{table.name}: {rows} rows copied, SHA-256 {left.hexdigest()[:16]}… in both cells")


def _digest(connection: Connection, read: sql.Composed) -> bytes:
    digest = hashlib.sha256()
    with connection.cursor() as cursor, cursor.copy(read) as rows:
        for block in rows:
            digest.update(block)
    return digest.digest()


def _note_sequences(connection: Connection, moved: Moved) -> None:
    """Note which events of each order are in the outbox that it leaves: the audit would miss them here."""
    _forget_sequences(connection, moved)
    # Those without events are rejected, and may be deleted.
    query = sql.SQL(
        "INSERT INTO orders.arrivals SELECT order_id, event_sequence FROM orders.orders WHERE event_sequence > 0 AND {}"
    )
    connection.execute(query.format(ORDERS.rows(ORDERS.tables[0], moved)))


def _forget_sequences(connection: Connection, moved: Moved) -> None:
    # By its column, its rows are found like those of orders.
    query = sql.SQL("DELETE FROM orders.arrivals WHERE {}").format(ORDERS.rows(ORDERS.tables[0], moved))
    connection.execute(query)
