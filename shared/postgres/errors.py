"""Classify and translate the driver's errors: transient ones become `Unavailable`, and that is done nowhere else.

Constraint violations stay asyncpg's, for each service's store.py, which knows what they mean.
"""

from typing import Any

import asyncpg

from shared.postgres import sqlstates
from shared.refusals import SlotClosed, Unavailable

# What the triggers on closed slots raise: see migrations/*.closed_slots.sql of the services.
CLOSED_SLOT = "SLOTS"
# Errors of the driver itself: the connection or the answer is lost.
_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


def is_about_the_batch(error: Exception) -> bool:
    """Return whether some items of a failed batch may succeed when they are retried one by one.

    A deadlock, a closed slot or a violated constraint concerns some of the items; an unreachable server concerns all.
    """
    if isinstance(error, SlotClosed):
        return True
    if isinstance(error, Unavailable):
        return isinstance(error.__cause__, asyncpg.TransactionRollbackError)
    return isinstance(error, asyncpg.PostgresError)


def is_transient(error: BaseException) -> bool:
    """Return whether an error of the driver or the server is transient: see shared/postgres/sqlstates.py."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return True  # a migration added a column to a table that is read; a retry plans again
    if isinstance(error, asyncpg.PostgresError):
        return sqlstates.is_transient(error.sqlstate, error.severity_en)
    return isinstance(error, _LOST)


def needs_operator(error: Unavailable) -> bool:
    """Return whether the server refused a statement for a reason that only an operator can remove.

    Then nothing was committed, and an immediate retry would fail again.
    """
    cause = error.__cause__
    return (
        isinstance(cause, asyncpg.PostgresError)
        and cause.severity_en == "ERROR"  # else the session may have ended in the middle of a commit
        and sqlstates.needs_operator(cause.sqlstate or "")
    )


def explain(error: BaseException) -> str:
    """Return an error for the log: the database's message, and why its code is transient or a bug."""
    cause = error.__cause__ if isinstance(error, Unavailable) else error
    if not isinstance(cause, asyncpg.PostgresError):
        return with_cause(error)
    return f"{type(cause).__name__}: {cause.args[0]} ({sqlstates.reason(cause.sqlstate or '')})"


def with_cause(error: BaseException) -> str:
    """Return an error for operators, with what caused it, such as a certificate that can't be verified.

    Clients get the text of the error alone.
    """
    cause = error.__cause__ if isinstance(error, Unavailable) else None
    text = str(error) or type(error).__name__
    if cause is None:
        return text
    message = "" if str(cause) in text else f": {cause}"
    return f"{text} ({type(cause).__name__}{message})"


class translated:  # noqa: N801 - reads as a word in `with translated():`
    """Turn transient failures of the database into Unavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, asyncpg.PostgresError) and error.sqlstate == CLOSED_SLOT:
            raise SlotClosed from error
        if error is not None and is_transient(error):
            raise Unavailable("The database can't serve this now.") from error
