"""Does the same work on a real database and on its replacement in memory, and compares the results."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import asyncpg

from services.order.domain import Order
from services.order.engine.operations import Attached, Begun
from services.order.engine.transitions import TransitionResult
from services.order.saga import Saga
from services.order.store import Answer
from shared.participant.protocol import Outcome
from shared.postgres.connections import Pool, Session
from shared.refusals import Refusal
from tests.simulation.memory import tables
from tests.simulation.memory.connections import MemoryPool, MemorySession

# Columns that differ in each database: timestamps, and ids that it generates.
DATABASE_SPECIFIC = (
    "created_at",
    "expires_at",
    "paid_at",
    "started_at",
    "ended_at",
    "lease_until",
    "event_id",
    "entry_id",
)
# Columns of JSON that contain those: an answer or an event has the order's timestamps.
TIMESTAMPED_JSON = ("body", "payload")
Work = Callable[["Side"], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two databases, as the product sees it."""

    pool: Pool
    session: Session


def in_memory(database: tables.Database) -> Side:
    """Return the side of a database in memory."""
    return Side(MemoryPool(database), MemorySession(database))


def now() -> datetime:
    """Return the real time; in a history, the databases in memory use the virtual time."""
    return datetime.now(UTC)


async def compare(work: Work, real: Side, memory: Side) -> None:
    """Do the same work on both sides, and check that the results are equal."""
    expected, actual = [comparable(await _result(work, side)) for side in (real, memory)]
    assert expected == actual, f"Postgres: {expected}, in memory: {actual}"


async def _result(work: Work, side: Side) -> Any:
    try:
        return await work(side)
    except asyncpg.IntegrityConstraintViolationError:
        return "breaks a constraint"  # if several are broken, the two databases may report different ones
    except (Refusal, KeyError) as error:
        return f"raises {type(error).__name__}"


def comparable(value: Any) -> Any:
    """Return a value without the columns that differ in each database."""
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    if isinstance(value, asyncpg.Record):
        value = dict(value)
    if isinstance(value, Answer | Order | Saga | Begun | Attached | TransitionResult | Outcome):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, Refusal):
        value = {"refusal": type(value), **value.members}
    if isinstance(value, dict):
        return {
            name: comparable(item) for name, item in value.items() if name not in DATABASE_SPECIFIC + TIMESTAMPED_JSON
        }
    return value
