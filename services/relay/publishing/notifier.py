"""Wakes the shards that have something to publish: at a notification, and by looking now and then."""

import asyncio
from collections.abc import Callable, Sequence

from services.relay import metrics, store
from services.relay.publishing.shard_publisher import ShardPublisher
from services.relay.settings import RelaySettings
from shared import postgres
from shared.background import LoopSupervisor
from shared.concurrency import wait_for
from shared.connecting import ReadOnlyServer, connect
from shared.postgres import Connection, translated

CHANNEL = "orders_outbox"


class Notifier:
    """Listens on a connection of its own, which no pooler may stand behind, and opens it again when it breaks."""

    def __init__(self, settings: RelaySettings, publishers: Callable[[], Sequence[ShardPublisher]]) -> None:
        self._settings = settings
        self._publishers = publishers
        self._notified = asyncio.Event()
        self._supervisor = LoopSupervisor("wakeup", "notifications.lost")

    async def run(self) -> None:
        """Listen for ever."""
        while True:
            with self._supervisor:
                await self._listen()
            metrics.LISTENING.set(0)
            # Until it listens again every shard looks for itself, as often as ever.
            for publisher in self._publishers():
                publisher.wake()
            await asyncio.sleep(self._settings.poll_interval_seconds)

    async def _listen(self) -> None:
        with translated():
            connection = await connect(self._settings, "relay wakeup", url=self._settings.listen_database_url)
            try:
                connection.add_termination_listener(self._on_notification)
                await connection.add_listener(CHANNEL, self._on_notification)
                metrics.LISTENING.set(1)
                self._notified.set()  # what was committed before this connection listened
                while not connection.turned_read_only:
                    await self._wake_pending(connection)
                    self._supervisor.succeeded()
                raise ReadOnlyServer
            finally:
                await postgres.close(connection, 1)

    def _on_notification(self, *_: object) -> None:
        self._notified.set()

    async def _wake_pending(self, connection: Connection) -> None:
        """Wait for a notification or the poll interval, then wake the shards that something waits for.

        Shards that go out together are woken together, as all their cycles are one call. For others one look at all
        that are idle costs less than a cycle of each. A busy one may have looked already when the event was committed,
        so it is told to look once more.
        """
        notified = await wait_for(self._notified, self._settings.poll_interval_seconds)
        self._notified.clear()
        idle = {}
        for publisher in self._publishers():
            if publisher.idle and not (notified and publisher.grouped):
                idle[publisher.shard] = publisher
            else:
                publisher.wake()
        # Without idle shards only now and then: an answer tells that the connection still stands.
        if idle or not notified:
            for shard in await store.shards_with_pending(connection, list(idle)):
                idle[shard].wake()
