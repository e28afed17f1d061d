"""What the relay answers over HTTP: whether it can do its work, and how each of its shards stands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.relay import store
from services.relay.broker import Broker
from services.relay.drain import Drain
from shared.http.routes import Route
from shared.http.server import Check
from shared.postgres import Pool

DESCRIPTION = "Carries the order service's outbox to Kafka."
ROUTES: Sequence[Route] = ()


class NotPublishing(Exception):  # noqa: N818 - the answer of a check
    """Some shards are not published."""


def checks(pool: Pool, broker: Broker, drains: Callable[[], Sequence[Drain]]) -> Mapping[str, Check]:
    """Return what /readyz asks."""

    async def database() -> None:
        async with pool.connection() as connection:
            await store.shards_with_pending(connection, [])

    async def shards() -> None:
        troubled = [f"shard {drain.shard} is {drain.state}" for drain in drains() if drain.in_trouble]
        if troubled:
            raise NotPublishing("; ".join(troubled))

    return {"database": database, "broker": broker.check, "shards": shards}


def details(drains: Callable[[], Sequence[Drain]]) -> Callable[[], Mapping[str, Any]]:
    """Return what /readyz tells besides."""
    return lambda: {"shards": {str(drain.shard): drain.state for drain in sorted(drains(), key=lambda d: d.shard)}}
