"""Shares the shards among the replicas that live: takes what is free, gives away what is too much."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from services.relay import store
from services.relay.domain.shards import assign
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.publishing.shard_publisher import ShardPublisher
from services.relay.settings import RelaySettings
from shared.background import LoopSupervisor
from shared.concurrency import wait_for
from shared.postgres import Pool
from shared.refusals import Unavailable

log = structlog.get_logger()

RENEWALS_PER_LEASE = 3  # two may go missing before a replica is taken for dead
# For the batches under way when the process is told to stop. With what cancelling them takes, it is gone within 6 s
# even while the broker hangs; a supervisor waits for 8.
STOP_SECONDS = 2.5


class ShardAssigner:
    """Runs a drain for each shard that is this replica's share."""

    def __init__(
        self, settings: RelaySettings, pool: Pool, broker: Broker, new_publisher: Callable[[int], ShardPublisher]
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._broker = broker
        self._new_publisher = new_publisher
        self._publishers: dict[int, tuple[ShardPublisher, asyncio.Task[None]]] = {}
        self._look = asyncio.Event()

    @property
    def publishers(self) -> list[ShardPublisher]:
        """Return the drains at work."""
        return [publisher for publisher, _ in self._publishers.values()]

    async def run(self, stop: asyncio.Event) -> None:
        """Keep this replica's share until `stop` is set, then finish and release it."""
        supervisor = LoopSupervisor("shards", "shard.assignment_failed")
        stopped = asyncio.create_task(stop.wait())
        stopped.add_done_callback(lambda _: self._look.set())
        try:
            while not stop.is_set():
                self._look.clear()
                with supervisor:
                    await self._adjust()
                await wait_for(self._look, self._settings.lease_seconds / RENEWALS_PER_LEASE)
        finally:
            stopped.cancel()
            await self._stop()

    async def _adjust(self) -> None:
        settings = self._settings
        # Who can't reach the broker leaves its share to those who can.
        counts = await self._reaches_the_broker()
        async with self._pool.connection() as connection:
            if counts:
                await store.keep_replica(connection, settings.replica, settings.lease_seconds)
            else:
                await store.forget_replicas(connection, settings.replica)
            live = await store.live_replicas(connection)
            holders = await store.shards(connection)
        change = assign(settings.replica, live, holders, list(self._publishers))
        for shard in change.take:
            self._start(shard)
        for shard in change.give:
            log.info("shard.reassigned", shard=shard, replicas=len(live))
            self._publishers[shard][0].stop()

    async def _reaches_the_broker(self) -> bool:
        try:
            await self._broker.check()
        except BrokerFailed:
            return False
        return True

    def _start(self, shard: int) -> None:
        publisher = self._new_publisher(shard)
        task = asyncio.create_task(publisher.run(), name=f"shard {shard}")
        self._publishers[shard] = (publisher, task)
        task.add_done_callback(partial(self._ended, shard))

    def _ended(self, shard: int, task: "asyncio.Task[None]") -> None:
        self._publishers.pop(shard)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("shard.task_failed", shard=shard, exc_info=error)
            return  # it is started again at the next look, and not at once for ever
        self._look.set()

    async def _stop(self) -> None:
        for publisher in self.publishers:
            publisher.stop()
        forgotten = asyncio.create_task(self._forget())
        tasks = [task for _, task in self._publishers.values()]
        _, late = await asyncio.wait([*tasks, forgotten], timeout=STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, forgotten, return_exceptions=True)

    async def _forget(self) -> None:
        """Leave the list of replicas, so that the others divide the shards anew without waiting."""
        with suppress(Unavailable):
            async with self._pool.connection() as connection:
                await store.forget_replicas(connection, self._settings.replica)
