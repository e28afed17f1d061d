"""Divides the shards among the live replicas: takes free shards, and releases those beyond this replica's share."""

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
from shared.postgres.connections import Pool
from shared.process.tasks import LoopSupervisor, wait_for
from shared.refusals import Unavailable

log = structlog.get_logger()

RENEWALS_PER_LEASE = 3  # two may fail before a replica counts as dead
# For the batches under way when the process has to stop. With the time to cancel them the process ends within 6 s,
# even if the broker hangs; a supervisor waits for 8 s.
STOP_SECONDS = 2.5


class ShardAssigner:
    """Runs a ShardPublisher for each shard that is assigned to this replica."""

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
        """Return the publishers that run."""
        return [publisher for publisher, _ in self._publishers.values()]

    async def run(self, stop: asyncio.Event) -> None:
        """Publish this replica's shards until `stop` is set, then finish and release them."""
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
        # A replica that can't reach the broker leaves its shards to the others.
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
            return  # it is started again in the next round: without the pause, a bug would repeat without a pause
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
        """Remove this replica from the list, so that the others divide its shards without waiting."""
        with suppress(Unavailable):
            async with self._pool.connection() as connection:
                await store.forget_replicas(connection, self._settings.replica)
