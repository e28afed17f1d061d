"""Puts one replica of the relay together, and runs it with its HTTP servers."""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.relay import api, metrics, store
from services.relay.admin.api import AdminApi
from services.relay.completeness import digests
from services.relay.completeness.watermark import Watermark
from services.relay.kafka.admin import Broker
from services.relay.outbox_cleaner import OutboxCleaner
from services.relay.publishing.assignment import ShardAssigner
from services.relay.publishing.group_commit import GroupCommit
from services.relay.publishing.notifier import Notifier
from services.relay.publishing.shard_publisher import ShardPublisher
from services.relay.publishing.topic_watch import TopicWatch
from services.relay.replay.api import ReplayApi
from services.relay.replay.worker import ReplayWorker
from services.relay.settings import RelaySettings
from shared.http.listeners import listeners
from shared.http.readiness import Check
from shared.http.server import HttpServer
from shared.identity.authenticator import Authenticator
from shared.identity.modes import authenticator
from shared.postgres.connections import Pool, Session
from shared.process.stopping import Stop
from shared.process.tasks import background


class Relay:
    """One replica without HTTP: it publishes its shards, and takes part in the work that one leader does for all."""

    def __init__(self, settings: RelaySettings, pool: Pool) -> None:
        self._pool = pool
        self.broker = Broker(settings)
        self._watch = TopicWatch(settings, self.broker, pool.connection)
        self._group = GroupCommit(settings, lambda: len(self.publishers()), self.broker.view)
        new_publisher = functools.partial(ShardPublisher, settings, self.broker, self._watch, self._group)
        self._assigner = ShardAssigner(settings, pool, self.broker, new_publisher)
        self._cleaner = OutboxCleaner(settings, pool)
        self._watermark = Watermark(settings, pool, self.broker)
        self._replays = ReplayWorker(settings, pool, self.broker)
        self._notifier = Notifier(settings, self.publishers)

    def publishers(self) -> Sequence[ShardPublisher]:
        """Return the publishers of the shards that this replica works on now."""
        return self._assigner.publishers

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set; then finish the batches under way and release the shards."""
        try:
            async with (
                background("backlog", lambda: metrics.measure_backlog(self._pool, store.backlog)),
                background("cleaner", self._cleaner.run),
                background("wakeup", self._notifier.run),
                background("topics", lambda: self._watch.run(stop)),
                background("watermark", lambda: self._watermark.run(stop)),
                background("replay", lambda: self._replays.run(stop)),
            ):
                await self._assigner.run(stop)
                await self._watermark.ended()
        finally:
            await asyncio.gather(self._group.close(), self.broker.close())


async def serve(settings: RelaySettings, stop: Stop) -> None:
    """Run the relay and its HTTP servers until `stop` is set; then finish the batches and release the shards."""
    released = asyncio.Event()
    async with (
        authenticator(settings) as identity,
        Pool(settings, "relay") as pool,
        Session(settings, "relay readiness", checked=True) as readiness,
    ):
        relay = Relay(settings, pool)
        checks = api.checks(readiness, relay.broker, relay.publishers)
        calls = [*api.routes(settings.topic), *digests.routes(pool)]
        details = api.details(relay.broker, relay.publishers)
        servers = listeners("relay", api.DESCRIPTION, settings, identity, calls, checks, details)

        async def publish() -> None:
            try:
                await relay.run(stop)
            finally:
                released.set()

        async with background("relay", publish):
            servers += _admin(settings, identity, pool, checks, details)
            await asyncio.gather(*(server.run(stop) for server in servers))
            await released.wait()


def _admin(
    settings: RelaySettings,
    identity: Authenticator,
    pool: Pool,
    checks: Mapping[str, Check],
    details: Callable[[], Mapping[str, Any]],
) -> list[HttpServer]:
    """Return the operators' own server if the settings ask for one. Its readiness is that of the other server."""
    if settings.admin_port is None:
        return []
    own = settings.model_copy(update={"port": settings.admin_port})
    description = "For operators only: parked events and what to do with them, and replays."
    calls = [*AdminApi(settings, pool).routes(), *ReplayApi(settings, pool).routes()]
    return [HttpServer("relay admin", description, own, identity, calls, checks, details, audience="operators")]
