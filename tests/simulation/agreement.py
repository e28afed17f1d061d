"""Does the same work on a real database and on the one in memory that stands for it, and compares what comes of it."""

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
from shared.postgres import Pool, Session
from shared.refusals import Refusal
from tests.simulation.memory import tables
from tests.simulation.memory.connections import MemoryPool, MemorySession

# What differs by nature: the two clocks, and ids that each makes for itself.
OWN = (
    "created_at",
    "expires_at",
    "paid_at",
    "started_at",
    "ended_at",
    "lease_until",
    "event_id",
    "entry_id",
)
# What shows those: an answer or an event tells when the order was made.
TELLING = ("body", "payload")
Work = Callable[["Side"], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two databases, as the product sees it."""

    pool: Pool
    session: Session


def in_memory(database: tables.Database) -> Side:
    """The one that stands for it."""
    return Side(MemoryPool(database), MemorySession(database))


def now() -> datetime:
    """The true time; the databases in memory get the simulation's elsewhere."""
    return datetime.now(UTC)


async def compare(work: Work, real: Side, memory: Side) -> None:
    """Do the same on both, and check that the same came of it."""
    really, supposedly = [comparable(await _done(work, side)) for side in (real, memory)]
    assert really == supposedly, f"really {really}, in memory {supposedly}"


async def _done(work: Work, side: Side) -> Any:
    try:
        return await work(side)
    except asyncpg.IntegrityConstraintViolationError:
        return "breaks a constraint"  # of several that it breaks, either may name another
    except (Refusal, KeyError) as error:
        return f"raises {type(error).__name__}"


def comparable(value: Any) -> Any:
    """Return a value without what differs by nature."""
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    if isinstance(value, asyncpg.Record):
        value = dict(value)
    if isinstance(value, Answer | Order | Saga | Begun | Attached | TransitionResult | Outcome):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, Refusal):
        value = {"refusal": type(value), **value.members}
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items() if name not in OWN + TELLING}
    return value
