"""Wakes the shards that have events to publish: at a notification, and at each poll interval."""

import asyncio
from collections.abc import Callable, Sequence

from services.relay import metrics, store
from services.relay.publishing.shard_publisher import ShardPublisher
from services.relay.settings import RelaySettings
from shared.postgres.connecting import ReadOnlyServer
from shared.postgres.connections import Connection, connected
from shared.process.tasks import LoopSupervisor, wait_for

CHANNEL = "orders_outbox"


class Notifier:
    """Listens on its own connection, without a pooler in between, and opens it again when it breaks."""

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
            # Until it listens again, every shard polls.
            for publisher in self._publishers():
                publisher.wake()
            await asyncio.sleep(self._settings.poll_interval_seconds)

    async def _listen(self) -> None:
        url = self._settings.current_listen_database_url()
        async with connected(self._settings, "relay wakeup", url=url) as connection:
            connection.add_termination_listener(self._on_notification)
            await connection.add_listener(CHANNEL, self._on_notification)
            metrics.LISTENING.set(1)
            self._notified.set()  # events may have been committed before this connection listened
            while not connection.turned_read_only:
                await self._wake_pending(connection)
                self._supervisor.succeeded()
            raise ReadOnlyServer

    def _on_notification(self, *_: object) -> None:
        self._notified.set()

    async def _wake_pending(self, connection: Connection) -> None:
        """Wait for a notification or the poll interval, then wake the shards that have pending events.

        Shards of a group are all woken, because their cycles are one call. For the other idle shards one query costs
        less than a cycle of each. A busy shard may have claimed before the event was committed, so it is woken too.
        """
        notified = await wait_for(self._notified, self._settings.poll_interval_seconds)
        self._notified.clear()
        idle = {}
        for publisher in self._publishers():
            if publisher.idle and not (notified and publisher.grouped):
                idle[publisher.shard] = publisher
            else:
                publisher.wake()
        # Without idle shards only at the poll interval: the answer shows that the connection is alive.
        if idle or not notified:
            for shard in await store.shards_with_pending(connection, list(idle)):
                idle[shard].wake()
