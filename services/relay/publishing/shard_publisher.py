"""Publishes one shard: takes it over, then claims, publishes and marks batch after batch until it is stopped."""

import asyncio

import structlog

from services.relay import metrics, store
from services.relay.domain.batching import PAUSE_MAX_SECONDS, SLOW_SECONDS, AdaptiveTimeout, BatchPacer, GroupingPolicy
from services.relay.domain.events import Batch, EventsRefused, OutboxEvent, PoisonIsolation
from services.relay.domain.shards import Lease, LeaseLost, TakeOverRefused
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.publishing import takeover
from services.relay.publishing.failures import ShardFailures
from services.relay.publishing.group_commit import GroupCommit, GroupRefused
from services.relay.publishing.topic_watch import TopicWatch
from services.relay.settings import RelaySettings
from shared.postgres import connecting
from shared.postgres.connections import Connection, connected
from shared.process.tasks import wait_for
from shared.refusals import Unavailable

log = structlog.get_logger()


class ShardPublisher:
    """Publishes one shard for as long as this replica is assigned it. `state` is for people."""

    def __init__(
        self, settings: RelaySettings, broker: Broker, watch: TopicWatch, group: GroupCommit, shard: int
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._watch = watch
        self._group = group
        self._grouping_policy = GroupingPolicy(transactions=settings.transactions)
        self.shard = shard
        self.state = "starting"
        self.failures = ShardFailures(shard)
        self.idle = False
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._pacer = BatchPacer(
            settings.batch_pause_milliseconds / 1000, most_seconds=PAUSE_MAX_SECONDS if settings.transactions else 0.0
        )
        self._timeout = AdaptiveTimeout(connecting.COMMAND_TIMEOUT_SECONDS)
        self._noted: str | None = None
        self._isolation = PoisonIsolation()

    @property
    def grouped(self) -> bool:
        """Return whether the next batch is published together with other shards."""
        return self._grouping_policy.wants_group(asyncio.get_running_loop().time())

    def wake(self) -> None:
        """Make `run` look for events now."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the batch under way, release the shard and return from `run`."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Hold and publish the shard until another replica takes it or `stop` is called."""
        try:
            while not self._stopping.is_set():
                try:
                    await self._take_and_publish()
                    return
                except (LeaseLost, asyncio.CancelledError):
                    raise
                except Exception as error:  # noqa: BLE001 - even a bug must not keep a shard from its next take-over
                    self._failed(error)
                    await wait_for(self._stopping, self.failures.pause_seconds())
        except LeaseLost as lost:
            metrics.LEASE_CHANGES.labels(self.shard, "lost").inc()
            log.info("shard.lease_lost", shard=self.shard, detail=str(lost))
        finally:
            self.failures.accepted()

    def _failed(self, error: Exception) -> None:
        """Record an error. After any error, the next take-over finds the true state."""
        progress = isinstance(error, GroupRefused)
        if isinstance(error, EventsRefused):
            self._grouping_policy.isolate(asyncio.get_running_loop().time())
            progress = self._isolation.batch_refused(error)
        elif isinstance(error, (TakeOverRefused, BrokerFailed)):
            self._broker.topics_seen = False  # the topics may have changed
        self.state = self.failures.failed(error, progress=progress)

    async def _take_and_publish(self) -> None:
        """Take the shard over and publish it until stopped. Return early if another replica holds it."""
        async with connected(self._settings, f"relay shard {self.shard}") as connection:
            lease = await store.take_lease(connection, self.shard, self._settings.replica, self._settings.lease_seconds)
            if lease is None:
                self.state = "held by another replica"
                return
            metrics.LEASE_CHANGES.labels(self.shard, "taken").inc()
            try:
                await self._reconcile_and_publish(connection, lease)
            except Exception:
                # Perhaps only this replica can't reach the broker: another one may take the shard immediately.
                if not connection.is_closed():  # as after a statement that took too long: then the lease expires
                    await store.release_lease(connection, lease)
                raise

    async def _reconcile_and_publish(self, connection: Connection, lease: Lease) -> None:
        """Reconcile the shard with Kafka and publish it until stopped."""
        self.state = "taking over"
        await self._watch.ensure()
        async with self._producer(transactional=self._settings.transactions or lease.claimed > 0) as producer:
            number = await self._reconcile(connection, lease, producer)
            if self._settings.transactions or lease.claimed == 0:
                await self._publish(connection, lease, number, producer)
                return
        # The previous relay used transactions and may have left one open; this one publishes without.
        async with self._producer(transactional=False) as producer:
            await self._publish(connection, lease, number, producer)

    def _producer(self, *, transactional: bool) -> EventProducer:
        name = self._settings.shard_name(self.shard) if transactional else None
        return EventProducer(self._settings, name, chunk_bytes=self._isolation.chunk_bytes, view=self._broker.view)

    async def _reconcile(self, connection: Connection, lease: Lease, producer: EventProducer) -> int:
        number = lease.number
        if self._settings.transactions or lease.claimed:
            await self._fence(lease)
            number = await takeover.reconcile_shard(connection, self._settings, lease, producer)
        self._noted = lease.transactional_id
        self.failures.accepted()
        log.info(
            "shard.lease_taken", shard=self.shard, epoch=lease.epoch, number=number, failures=self.failures.in_a_row
        )
        while self._isolation.to_park:
            await self._park(connection, lease, *self._isolation.to_park[-1])
            self._isolation.to_park.pop()
        return number

    async def _fence(self, lease: Lease) -> None:
        """Fence the producer that the batch under way was sent with, unless it is the shard's own."""
        others = takeover.to_fence(self._settings, lease)
        if others == self._group.transactional_id:
            await self._group.fence_failed()
        elif others is not None:
            await takeover.fence(self._settings, others)

    async def _publish(self, connection: Connection, lease: Lease, number: int, producer: EventProducer) -> None:
        """Publish batches until stopped, then mark the last one and release the shard."""
        view = self._broker.view
        made_again = view.made_again
        while not self._stopping.is_set():
            self.state = "publishing"
            self._wake.clear()
            view.check(made_again)
            if connection.is_closed():  # a group uses another connection, so nothing else would notice
                raise Unavailable("The database has closed the shard's connection.")
            if not await self._next_batch(connection, lease, number, producer):
                await self._wait_for_work()
            elif self._settings.transactions:
                number += 1
        await takeover.mark(connection, self._settings, lease, number)
        await store.release_lease(connection, lease)
        metrics.LEASE_CHANGES.labels(self.shard, "released").inc()
        self.state = "released"

    async def _next_batch(self, connection: Connection, lease: Lease, number: int, producer: EventProducer) -> int:
        """Publish the next batch together with other shards or alone, as GroupingPolicy decides; return its size."""
        events = await self._together(connection, lease, number) if self.grouped else None
        return await self._alone(connection, lease, number, producer) if events is None else events

    async def _together(self, connection: Connection, lease: Lease, number: int) -> int | None:
        """Publish the next batch together with other shards; return its size, None if it has to be published alone."""
        await self._record_transactional_id(connection, lease, number, self._group.transactional_id)
        try:
            events = await self._group.round(lease, number)
        except Exception:
            self._grouping_policy.group_failed(asyncio.get_running_loop().time())
            raise
        if events is not None:
            self._grouping_policy.group_succeeded()
            self._record_published(events)
        if self._group.claim_seconds > SLOW_SECONDS:
            self._grouping_policy.group_slow()
        return events

    async def _alone(self, connection: Connection, lease: Lease, number: int, producer: EventProducer) -> int:
        """Publish the next batch alone, with or without a transaction; return its size."""
        clock = asyncio.get_running_loop().time
        if self._settings.transactions:
            await self._record_transactional_id(connection, lease, number, self._settings.shard_name(self.shard))
        began = clock()
        events = await self._cycle(connection, lease, number)
        pause = self._pacer.next_pause(len(events), began)
        if events:
            deadline = clock() + self._settings.lease_seconds
            await self._send(producer, Batch(self.shard, number + 1, events), deadline)
        self._record_published(len(events))
        if events and (left := began + pause - clock()) > 0:
            await wait_for(self._stopping, left)
        return len(events)

    async def _record_transactional_id(
        self, connection: Connection, lease: Lease, number: int, transactional_id: str
    ) -> None:
        """Record the transactional id of the next batches, so that the next take-over knows what to fence."""
        if self._noted != transactional_id:
            # Without a batch under way a take-over fences nothing, even if the other producer never opens.
            await takeover.mark(connection, self._settings, lease, number)
            await store.note_transactional_id(connection, lease, transactional_id)
            self._noted = transactional_id

    async def _cycle(self, connection: Connection, lease: Lease, number: int) -> list[OutboxEvent]:
        settings, clock = self._settings, asyncio.get_running_loop().time
        began = clock()
        try:
            with self._timeout.limit() as seconds:
                return await store.cycle(
                    connection,
                    lease,
                    number,
                    lease_seconds=settings.lease_seconds,
                    events_max=self._isolation.events_max(settings.batch_events),
                    bytes_max=settings.batch_bytes,
                    in_transaction=settings.transactions,
                    timeout_seconds=seconds,
                )
        finally:
            if clock() - began > SLOW_SECONDS:
                self._grouping_policy.isolate(clock())

    async def _send(self, producer: EventProducer, batch: Batch, deadline: float) -> None:
        if asyncio.get_running_loop().time() > deadline:
            raise LeaseLost("this process was paused for longer than its lease")
        await producer.publish(batch, one_by_one=self._isolation.one_by_one)
        metrics.batch_is_out(self.shard, len(batch.events))
        self._isolation.batch_published()

    def _record_published(self, events: int) -> None:
        """Note that a batch of `events` events was published."""
        self._grouping_policy.published(events)
        if events:
            self.failures.succeeded()

    async def _wait_for_work(self) -> None:
        """Wait until woken, or until the lease has to be renewed."""
        self.state, self.idle = "idle", True
        self.failures.succeeded()
        await wait_for(self._wake, self._settings.lease_seconds / 3)
        self.idle = False

    async def _park(self, connection: Connection, lease: Lease, outbox_id: int, reason: str) -> None:
        parked = await store.park(connection, lease, outbox_id, reason)
        if parked:  # else another replica has parked it and an operator acted on it since
            metrics.PARKINGS.labels(self.shard).inc(parked)
            log.error("order.parked", shard=self.shard, outbox_id=outbox_id, events=parked, reason=reason)
        self._isolation.event_parked()
