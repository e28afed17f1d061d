"""What waits for a standby in the primary: commits, also of sessions that have given up and closed their connection."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

import asyncpg

from tests.infrastructure.own_ha import OwnHa

Wait = tuple[str, int, datetime]  # of a role, in a server process, since
_WAITS = """
SELECT usename, pid, state_change FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'
"""


async def waits(ha: OwnHa) -> set[Wait]:
    """Return the commits that wait for a standby now."""
    connection = await asyncpg.connect(ha.url)
    try:
        return {tuple(row) for row in await connection.fetch(_WAITS)}
    finally:
        await connection.close()


def by_role(found: Iterable[Wait]) -> dict[str, int]:
    """Return how many wait, by role."""
    return dict(sorted(Counter(role for role, _, _ in found).items()))
