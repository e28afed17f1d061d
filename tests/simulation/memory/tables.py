"""Stores tables in memory: rows by key, transactions that can be rolled back, and queries found by their SQL.

A database in memory serves the product's own store functions. For each query it implements only what SQL decides: the
rows that are found, the guards of a change, and the constraints. Transactions run one after the other, as the row locks
of the real databases enforce for one order.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Any

import asyncpg

Row = dict[str, Any]


def violated(constraint: str) -> asyncpg.IntegrityConstraintViolationError:
    """Return the error that Postgres raises when a row breaks a unique index."""
    return asyncpg.UniqueViolationError(f'duplicate key value violates unique constraint "{constraint}"')


def checked(row: Mapping[str, Any], **checks: object) -> None:
    """Raise the error of Postgres for the first CHECK that does not hold."""
    for name, holds in checks.items():
        if not holds:
            raise asyncpg.CheckViolationError(f'row violates check constraint "{name}": {dict(row)}')


class Table:
    """Rows by primary key. A change replaces the row, so that a rollback can restore the older one."""

    def __init__(self, journal: list[tuple["Table", Any, Row | None]], *, checked_by_invariants: bool) -> None:
        self._journal = journal
        self.checked_by_invariants = checked_by_invariants
        self.rows: dict[Any, Row] = {}

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def get(self, key: Any) -> Row | None:
        """Return the row with this key or None."""
        return self.rows.get(key)

    def find(self, keys: Collection[Any]) -> list[Row]:
        """Return the rows with these keys, in order of key."""
        return [self.rows[key] for key in sorted(set(keys)) if key in self.rows]

    def insert(self, key: Any, row: Row) -> Row:
        """Add a row. Raises asyncpg's UniqueViolationError."""
        if key in self.rows:
            raise violated("primary key")
        return self.put(key, row)

    def update(self, key: Any, **changes: Any) -> Row:
        """Change a row and return the new one."""
        return self.put(key, {**self.rows[key], **changes})

    def put(self, key: Any, row: Row) -> Row:
        """Insert or replace a row, and return it."""
        self._journal.append((self, key, self.rows.get(key)))
        self.rows[key] = row
        return row

    def delete(self, key: Any) -> None:
        """Remove a row."""
        self._journal.append((self, key, self.rows.pop(key)))

    def restore(self, key: Any, row: Row | None) -> None:
        """Undo a change."""
        if row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = row


class Database:
    """A schema. Its subclasses have one method per query, with the query's name and arguments."""

    def __init__(self, queries: Mapping[str, str], clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self._journal: list[tuple[Table, Any, Row | None]] = []
        self._queries: dict[str, Callable[..., Any]] = {
            sql: getattr(self, name) for name, sql in queries.items() if inspect.ismethod(getattr(self, name, None))
        }

    def table(self, *, checked_by_invariants: bool = True) -> Table:
        """Return a new table of this database. `checked_by_invariants`: whether an invariant reads it."""
        return Table(self._journal, checked_by_invariants=checked_by_invariants)

    def run(self, sql: str, arguments: tuple[Any, ...]) -> Any:
        """Run one of the product's queries, given its SQL."""
        return self._queries[sql](*arguments)

    def commit(self) -> bool:
        """Commit the changes since the last commit; return whether an invariant may depend on them."""
        changed = any(table.checked_by_invariants for table, _, _ in self._journal)
        self._journal.clear()
        return changed

    def roll_back(self) -> None:
        """Undo the changes since the last commit."""
        while self._journal:
            table, key, row = self._journal.pop()
            table.restore(key, row)
