"""The relay without its HTTP face: one replica that takes its share of the shards and publishes them."""

import asyncio
import functools
from collections.abc import Sequence

from services.relay import backlog
from services.relay.broker import Broker
from services.relay.cleaner import Cleaner
from services.relay.group_commit import GroupCommit
from services.relay.notifier import Notifier
from services.relay.replay import Replayer
from services.relay.settings import RelaySettings
from services.relay.shard_assigner import ShardAssigner
from services.relay.shard_publisher import ShardPublisher
from services.relay.topic_watch import TopicWatch
from services.relay.watermark import Watermark
from shared.background import background
from shared.postgres import Pool

SHARDS = 4  # as many as orders.outbox computes and relay.shards has rows


class Relay:
    """One replica."""

    def __init__(self, settings: RelaySettings, pool: Pool) -> None:
        self._pool = pool
        self.broker = Broker(settings, SHARDS)
        self._watch = TopicWatch(settings, SHARDS, self.broker, pool.connection)
        self._group = GroupCommit(settings, lambda: len(self.publishers()), self.broker.view)
        new_publisher = functools.partial(ShardPublisher, settings, self.broker, self._watch, self._group)
        self._assigner = ShardAssigner(settings, pool, self.broker, new_publisher)
        self._cleaner = Cleaner(settings, pool)
        self._watermark = Watermark(settings, pool, self.broker)
        self._replayer = Replayer(settings, pool, self.broker)
        self._notifier = Notifier(settings, self.publishers)

    def publishers(self) -> Sequence[ShardPublisher]:
        """Return the shards that this replica works on at the moment."""
        return self._assigner.publishers

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set; then finish the batches under way and release the shards."""
        try:
            async with (
                background("backlog", lambda: backlog.measure(self._pool)),
                background("cleaner", self._cleaner.run),
                background("wakeup", self._notifier.run),
                background("topics", lambda: self._watch.run(stop)),
                background("watermark", lambda: self._watermark.run(stop)),
                background("replay", lambda: self._replayer.run(stop)),
            ):
                await self._assigner.run(stop)
                await self._watermark.ended()
        finally:
            await asyncio.gather(self._group.close(), self.broker.close())
