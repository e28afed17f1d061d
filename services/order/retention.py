"""What the order service deletes: answered idempotency keys, rejected orders and ended sagas. Other orders stay."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from services.order.domain import OrderId, SagaId
from services.order.store import SQL
from shared.postgres.connections import Connection
from shared.pruning import Pruning

# Earlier than all keys; asyncpg cannot express -infinity in UTC.
FIRST_TIMESTAMP = datetime(1970, 1, 1, tzinfo=UTC)


def prunings(*, key_hours: int, rejected_hours: int, saga_days: int) -> Sequence[Pruning]:
    """Return the rules of deletion: keys answered `key_hours` ago, orders rejected `rejected_hours` ago, and sagas that
    ended `saga_days` ago.

    An ended saga's row serves only the order's timeline and the answers of keys: no decision depends on it. If a paused
    process still has the saga in memory, it finds nothing left to do. A rejected order has no events, and nothing is
    held for it. It stays at least as long as its key, whose answer is in the saga's row.
    """
    hours = max(rejected_hours, key_hours)
    return (
        Pruning("idempotency keys", FIRST_TIMESTAMP, partial(prune_keys, hours=key_hours)),
        Pruning("rejected orders", UUID(int=0), partial(prune_rejected, hours=hours)),
        Pruning("sagas", UUID(int=0), partial(prune_sagas, days=saga_days)),
    )


async def prune_keys(db: Connection, after: datetime, limit: int, *, hours: int) -> list[datetime]:
    """Delete up to `limit` keys claimed from `after` on and answered more than `hours` ago; return the times when they
    were claimed, ascending."""
    return sorted(row["created_at"] for row in await db.fetch(SQL["prune_keys"], after, limit, hours))


async def prune_rejected(db: Connection, after: UUID, limit: int, *, hours: int) -> list[OrderId]:
    """Delete up to `limit` orders above `after` that were rejected more than `hours` ago, with their sagas and the keys
    that these answer; return their ids, ascending."""
    return sorted(row["order_id"] for row in await db.fetch(SQL["prune_rejected"], after, limit, hours))


async def prune_sagas(db: Connection, after: UUID, limit: int, *, days: int) -> list[SagaId]:
    """Delete up to `limit` sagas above `after` that ended more than `days` ago; return their ids, ascending."""
    return sorted(row["saga_id"] for row in await db.fetch(SQL["prune_sagas"], after, limit, days))
