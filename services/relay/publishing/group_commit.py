"""Group commit: publishes the shards of a replica together, with one claim and one Kafka transaction for all of them.

A transaction of any size costs the broker the same, and readers can't pass the first open transaction of a partition.
So events are fastest with few transactions, one after the other.

Shards that ask while a round runs share the next round. Each shard first records the group's transactional id, so that
the next take-over of the shard knows which producer to fence (takeover.fence).
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.relay import metrics, store
from services.relay.domain.batching import PAUSE_TOGETHER_SECONDS, SLOW_SECONDS, BatchPacer
from services.relay.domain.events import CHUNK_BYTES, Batch, EventsRefused, OutboxEvent, smaller
from services.relay.domain.shards import Lease, LeaseLost, ShardLocked
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.kafka.topics import TopicView
from services.relay.settings import RelaySettings
from shared.postgres import connections
from shared.postgres.connecting import connect
from shared.postgres.connections import Connection
from shared.postgres.errors import translated
from shared.process.tasks import is_survivable

CLOSE_SECONDS = 1.0


class GroupRefused(Exception):  # noqa: N818 - expected: each shard then publishes alone, and one finds the event
    """The broker refuses an event of one of the shards in a group."""


@dataclass(slots=True)
class CommitRequest:
    """A shard's request to take part in the next round.

    The outcome is how many events were published; None if the shard has to publish alone.
    """

    lease: Lease
    number: int
    outcome: "asyncio.Future[int | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def answer(self, events: int | None) -> None:
        """Give the shard its outcome."""
        if not self.outcome.done():
            self.outcome.set_result(events)

    def fail(self, error: Exception) -> None:
        """Give the shard the error, so that it is taken over again."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


class GroupCommit:
    """The rounds of one replica."""

    def __init__(self, settings: RelaySettings, held: Callable[[], int], view: TopicView | None = None) -> None:
        """`held` returns how many shards the replica has."""
        self._settings = settings
        self._view = view
        self._held = held
        # A shard records this id before its first round. It is random even if the replica has a fixed name: a restarted
        # process must not treat its predecessor's transaction as its own.
        self.transactional_id = f"{settings.topic}.relay-{settings.replica}-{secrets.token_hex(4)}"
        self._pacer = BatchPacer(settings.batch_pause_milliseconds / 1000, most_seconds=PAUSE_TOGETHER_SECONDS)
        self._waiting: list[CommitRequest] = []
        self._rounds: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[EventProducer] | None = None
        self._producer: EventProducer | None = None
        self._connection: Connection | None = None
        self._chunk_bytes = CHUNK_BYTES
        self.claim_seconds = 0.0  # of the last round, for all its shards

    async def round(self, lease: Lease, number: int) -> int | None:
        """Mark batch `number` of a shard, then claim and publish its next one with other shards; return its size.

        None: the shard has to publish alone this time, and nothing was changed.
        Raises LeaseLost, Unavailable, BrokerFailed or GroupRefused; then the shard has to be taken over again.
        """
        request = CommitRequest(lease, number)
        self._waiting.append(request)
        if self._rounds is None:
            self._rounds = asyncio.create_task(self._run(), name="group commit")
        return await request.outcome

    async def fence_failed(self) -> None:
        """Wait until no batch of a shard that failed here can be committed any more. Raises BrokerFailed.

        Opening the next producer ends the failed one's transaction. An open producer has no batch of that shard,
        because a shard waits for the outcome of each of its rounds.
        """
        await self._opened()

    async def close(self) -> None:
        """Cancel the round under way and close the connection and the producer."""
        for task in (self._rounds, self._opening):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._disconnect()
        if self._producer is not None:
            await self._drop(self._producer)

    async def _run(self) -> None:
        """Run rounds as long as there are requests."""
        try:
            while self._waiting:
                # Shards that got their outcome in this step of the event loop ask again in the next one.
                await asyncio.sleep(0)
                requests, self._waiting = self._waiting, []
                pause_ends = await self._round(requests)
                await asyncio.sleep(pause_ends - asyncio.get_running_loop().time())
        finally:
            self._rounds = None

    async def _round(self, requests: Sequence[CommitRequest]) -> float:
        """Run one round, resolve its requests, and return when the next one may begin."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            # Before the claim: a shard that was fenced before its claim must not use a producer opened after it.
            producer = await self._opened()
            began = clock()
            claimed = await self._claim(requests)
            self.claim_seconds = clock() - began
            for request in requests:
                if not claimed.get(request.lease.shard):
                    request.answer(0 if claimed else None)
            full = [
                Batch(request.lease.shard, request.number + 1, claimed[request.lease.shard])
                for request in requests
                if claimed.get(request.lease.shard)
            ]
            if not full:
                return began
            await self._publish(producer, full)
            for request in requests:
                request.answer(len(claimed[request.lease.shard]))
            events = sum(len(batch.events) for batch in full)
            return began + self._pacer.next_pause(events, began, shards=max(1, self._held()))
        except BaseException as error:
            failure = error if isinstance(error, Exception) else BrokerFailed("the round was cut off")
            for request in requests:
                request.fail(failure)  # each shard decides how to continue
            if not is_survivable(error):
                raise
            return began

    async def _claim(self, requests: Sequence[CommitRequest]) -> Mapping[int, list[OutboxEvent]]:
        """Return the claimed events by shard; an empty mapping if the shards have to publish alone."""
        settings = self._settings
        try:
            with translated():
                if self._connection is None or self._connection.is_closed():
                    self._connection = await connect(settings, "relay group commit")
                return await store.cycle_together(
                    self._connection,
                    {request.lease: request.number for request in requests},
                    lease_seconds=settings.lease_seconds,
                    events_max=settings.batch_events,
                    bytes_max=settings.batch_bytes,
                    lock_seconds=SLOW_SECONDS,
                )
        except (LeaseLost, ShardLocked):
            return {}  # it concerns one shard, which will get the error when it publishes alone
        except BaseException:
            await self._disconnect()
            raise

    async def _publish(self, producer: EventProducer, batches: Sequence[Batch]) -> None:
        try:
            await producer.publish(*batches)
        except EventsRefused as refused:
            if refused.too_large_together:
                self._chunk_bytes = smaller(self._chunk_bytes)  # before another shard opens the next producer
            await self._drop(producer)
            raise GroupRefused(str(refused)) from refused
        except BaseException:
            await self._drop(producer)
            raise
        for batch in batches:
            metrics.batch_is_out(batch.shard, len(batch.events))

    async def _opened(self) -> EventProducer:
        """Return the open producer. Concurrent callers share one attempt to open it, and its failure."""
        if self._producer is not None:
            return self._producer
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="group commit opens")
            self._opening.add_done_callback(self._tried_to_open)
        return await asyncio.shield(self._opening)

    async def _open(self) -> EventProducer:
        producer = EventProducer(self._settings, self.transactional_id, chunk_bytes=self._chunk_bytes, view=self._view)
        try:
            await producer.open()
        except BaseException:
            await self._drop(producer)
            raise
        self._producer = producer
        return producer

    def _tried_to_open(self, opening: "asyncio.Task[EventProducer]") -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # retrieved here, because its callers may have been cancelled

    async def _drop(self, producer: EventProducer) -> None:
        if self._producer is producer:
            self._producer = None
        await producer.drop()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connections.close(connection, CLOSE_SECONDS)
