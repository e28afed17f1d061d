"""What the order service forgets: answered idempotency keys, and sagas that ended. Orders stay."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from services.order import store
from shared.pruning import Pruning

# Before all keys; asyncpg cannot express -infinity in UTC.
FIRST_TIMESTAMP = datetime(1970, 1, 1, tzinfo=UTC)


def prunings(*, key_hours: int, saga_days: int) -> Sequence[Pruning]:
    """Return what is deleted: keys that got their answer `key_hours` ago, sagas that ended `saga_days` ago.

    An ended saga's row is the order's timeline and nothing else: no decision rests on it, and whoever wakes up with
    it in memory finds nothing left to do.
    """
    return (
        Pruning("idempotency keys", FIRST_TIMESTAMP, partial(store.prune_keys, hours=key_hours)),
        Pruning("sagas", UUID(int=0), partial(store.prune_sagas, days=saga_days)),
    )
