"""Connections to the databases of two cells, and the state that each has of a slot."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from deploy.slots.tables import ORDERS, SERVICES, Moved, Service
from shared.postgres import database_url
from shared.postgres.connecting import ENCODING
from shared.postgres.migrations import CONNECT_TIMEOUT_SECONDS, LOCK_PAUSE_SECONDS, LOCK_TIMEOUT, LOCK_TRIES

Connection = psycopg.Connection
Cursor = psycopg.Cursor[Any]
# Over which states a move closes slots that are not open: its own, and that of a cell that had them before.
_BEFORE: Mapping[str, list[str]] = {"leaving": ["leaving"], "arriving": ["arriving", "gone"]}


class RefusedError(Exception):
    """The slots can't be moved, or not now; its text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The databases of a cell, by service. `name`: from or to, for messages."""

    name: str
    databases: Mapping[str, Connection]

    def of(self, service: Service) -> Connection:
        """Return the connection to a service's database."""
        return self.databases[service.name]

    def each_state(self, service: Service, moved: Moved) -> dict[int, str | None]:
        """Return the state of each of these slots at a service, None for those that are open."""
        query = sql.SQL("SELECT slot, state FROM {} WHERE slot = ANY (%s::smallint[])").format(
            service.place("closed_slots")
        )
        slots = sorted(moved.slots)
        return dict.fromkeys(slots) | dict(self.of(service).execute(query, (slots,)).fetchall())

    def state(self, service: Service, moved: Moved) -> str | None:
        """Return the state that these slots have at a service, None if they are open. Raises RefusedError."""
        found = set(self.each_state(service, moved).values())
        if len(found) > 1:
            raise RefusedError(
                f"some of the slots have moved, or move by themselves, {self.name} this cell: see status"
            )
        return found.pop()

    def states(self, moved: Moved) -> dict[str, str | None]:
        """Return the state at each service."""
        return {service.name: self.state(service, moved) for service in SERVICES}


@contextmanager
def connected(name: str, urls: Mapping[str, str], *, alone: bool = True) -> Iterator[Cell]:
    """Open the databases of a cell, by service; `alone`: while no other command does, which a command that only reads
    does not need. Raises psycopg.Error and RefusedError.
    """
    with ExitStack() as stack:
        databases = {service: stack.enter_context(_connect(url)) for service, url in urls.items()}
        if alone:
            _lock(name, stack.enter_context(_connect(urls[ORDERS.name])))
        yield Cell(name, databases)


def _lock(name: str, connection: Connection) -> None:
    # Only the owner can take this lock, and it ends with its connection: a killed command blocks nobody. Vacuum takes
    # it too, but not for as long as `lock_timeout`.
    lock = sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(ORDERS.place("closed_slots"))
    try:
        connection.execute("BEGIN")
        connection.execute(lock)
    except psycopg.errors.LockNotAvailable:
        text = f"another command moves slots {name} this cell, or both addresses lead to the same database"
        raise RefusedError(text) from None


def _connect(url: str) -> Connection:
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        **database_url.parse(url).libpq_options(),
        "client_encoding": ENCODING,
    }
    connection = psycopg.connect(**options, autocommit=True)
    # A copy takes as long as it takes, and the connection with the lock is idle in its transaction.
    connection.execute(
        "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN"
        " ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
    )
    connection.execute("SELECT set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
    return connection


def _beside_traffic(connection: Connection, statement: sql.Composed, say: Callable[[str], None]) -> None:
    """Run a statement that locks a table, again if it gets no lock: other sessions wait behind a session that waits.

    Raises psycopg.errors.LockNotAvailable after LOCK_TRIES.
    """
    for attempt in range(1, LOCK_TRIES + 1):
        try:
            connection.execute(statement)
            return
        except psycopg.errors.LockNotAvailable:
            if attempt == LOCK_TRIES:
                raise
            say("a lock is held by another session; trying again")
            time.sleep(LOCK_PAUSE_SECONDS)


def close(cell: Cell, service: Service, moved: Moved, state: str, say: Callable[[str], None]) -> None:
    """Close the slots. Afterwards, nothing new begins for their users here. A repeat makes sure of it.

    The state is committed first, and then each trigger is enabled. That waits for every transaction that has written to
    the table, and lets no other write before the commit. So each later transaction meets the trigger and the state,
    also one of a process that was paused meanwhile.
    """
    connection = cell.of(service)
    set_state(cell, service, moved, state)
    for table in service.guarded:
        # One at a time: services lock the tables in different orders.
        enable = sql.SQL("ALTER TABLE {} ENABLE TRIGGER closed_slot").format(service.place(table))
        _beside_traffic(connection, enable, say)


def set_state(cell: Cell, service: Service, moved: Moved, state: str) -> None:
    """Write leaving or arriving as the state of slots that are open here, or closed for the same move.

    Raises RefusedError if they have another state.
    """
    query = sql.SQL(
        "INSERT INTO {0} AS c (slot, state, first_id) SELECT slot, %s, %s FROM unnest(%s::smallint[]) AS t (slot)"
        " ON CONFLICT (slot) DO UPDATE SET state = excluded.state, first_id = excluded.first_id,"
        " changed_at = clock_timestamp() WHERE c.state = ANY (%s)"
    ).format(service.place("closed_slots"))
    connection = cell.of(service)
    with connection.transaction():
        done = connection.execute(query, (state, moved.first_id, sorted(moved.slots), _BEFORE[state]))
        _all_changed(done, cell, service, moved)


def advance(cell: Cell, service: Service, moved: Moved, before: str, after: str) -> None:
    """Write the state that follows on `before`, in the caller's transaction. Raises RefusedError for another state."""
    query = sql.SQL(
        "UPDATE {} SET state = %s, changed_at = clock_timestamp() WHERE slot = ANY (%s::smallint[]) AND state = %s"
    ).format(service.place("closed_slots"))
    _all_changed(cell.of(service).execute(query, (after, sorted(moved.slots), before)), cell, service, moved)


def _all_changed(done: Cursor, cell: Cell, service: Service, moved: Moved) -> None:
    # The lock of `connected` can be lost while the command is paused. Then another command may have gone on.
    if done.rowcount != len(moved.slots):
        raise RefusedError(
            f"another command has changed the slots at the {service.name} service {cell.name} this cell: see status"
        )


def reopen(cell: Cell, service: Service, moved: Moved, before: str, say: Callable[[str], None]) -> None:
    """Open slots that have the state `before`. If no slot is closed any more, writes pay for no trigger either.

    Raises RefusedError if they have another state.
    """
    connection, closed = cell.of(service), service.place("closed_slots")
    opening = sql.SQL("DELETE FROM {} WHERE slot = ANY (%s::smallint[]) AND state = %s").format(closed)
    with connection.transaction():
        _all_changed(connection.execute(opening, (sorted(moved.slots), before)), cell, service, moved)
    others = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(closed)
    if connection.execute(others).fetchone() == (True,):
        return
    for table in service.guarded:
        disable = sql.SQL("ALTER TABLE {} DISABLE TRIGGER closed_slot").format(service.place(table))
        _beside_traffic(connection, disable, say)
