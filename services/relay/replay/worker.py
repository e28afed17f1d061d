"""Publishes events again, on one replica, into the topics that operators named and at a limited rate.

At least once, in sequence per order, with the events' own ids. A step is published first and recorded afterwards, so a
replica that takes over begins with the step that was under way. The worker never writes to the live topic.
"""

import asyncio
from functools import partial

import structlog

from services.relay import metrics, store
from services.relay.domain.events import Batch, EventsRefused
from services.relay.domain.refusals import EventsRemoved
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.kafka.topics import TopicView
from services.relay.replay import store as replay_store
from services.relay.replay.store import Replay, Window
from services.relay.settings import RelaySettings
from shared.leadership import Leadership
from shared.postgres.connections import Pool
from shared.process.tasks import LoopSupervisor, wait_for
from shared.refusals import Unavailable

log = structlog.get_logger()

LEADERSHIP = "replay"
STEP_EVENTS = 500
STEP_BYTES = 4 * 1024 * 1024
IDLE_SECONDS = 1.0  # the longest wait before a new replay begins
# Between steps without a matching event, to leave the database to others.
SCAN_PAUSE_SECONDS = 0.005
HEADER = "ce_replayid"  # shows a consumer of several topics that the event is a repetition


class ReplayWorker:
    """Runs the oldest replay while this replica is the leader."""

    def __init__(self, settings: RelaySettings, pool: Pool, broker: Broker) -> None:
        self._settings = settings
        self._pool = pool
        self._broker = broker
        self._producer: tuple[Replay, EventProducer] | None = None
        self._one_by_one = False
        self._leadership = Leadership(partial(store.hold_leadership, leadership=LEADERSHIP, holder=settings.replica))

    async def run(self, stop: asyncio.Event) -> None:
        """Replay until `stop` is set."""
        supervisor = LoopSupervisor("replay", "replay.interrupted", expected=(Unavailable, BrokerFailed))
        try:
            while not stop.is_set():
                pause = IDLE_SECONDS
                with supervisor:
                    pause = await self._round()
                await wait_for(stop, supervisor.pause(pause))
        finally:
            await self._give_up()

    async def _round(self) -> float:
        """Do one step, and drop the producer if it fails, because its state is unknown then."""
        try:
            return await self._step()
        except Exception:
            await self._drop()
            raise

    async def _step(self) -> float:
        """Do one step of the oldest replay, and return the seconds to wait before the next one."""
        settings = self._settings
        lease_seconds = 2 * settings.kafka_timeout_seconds + settings.lease_seconds
        async with self._pool.connection() as connection:
            replay = await replay_store.next_replay(connection)
            if replay is None or not await self._leadership.renew(connection, lease_seconds):
                await self._drop()
                return IDLE_SECONDS
            window = await replay_store.replay_window(connection, replay, events_max=STEP_EVENTS, bytes_max=STEP_BYTES)
            waits = window.position is None and await replay_store.replay_waits(connection, replay)
            # Queried last: events that are removed later were in the window.
            lost = await replay_store.lost_to_replay(connection, replay.replay_id)
        if lost is not None:
            await self._fail(replay, str(EventsRemoved.up_to(lost)))
            return 0
        if waits:
            return IDLE_SECONDS  # for live publishing, which has not reached these events
        if window.wanted and not await self._publish(replay, window):
            return 0
        await self._note(replay, window)
        return max(SCAN_PAUSE_SECONDS, len(window.wanted) / settings.replay_events_per_second)

    async def _publish(self, replay: Replay, window: Window) -> bool:
        """Publish a step; return False if it was not published."""
        producer = await self._open(replay)
        if not self._leadership.is_certain:
            return False  # this process was paused: another replica may be further
        try:
            await producer.publish(Batch(0, 0, window.wanted), one_by_one=self._one_by_one)
        except EventsRefused as error:
            await self._drop()
            if self._one_by_one:
                event = error.chunks[0][0]
                await self._fail(replay, f"event {event.event_id} of order {event.order_id}: {error}")
            self._one_by_one = not self._one_by_one
            return False
        self._one_by_one = False
        metrics.REPLAYED.inc(len(window.wanted))
        return True

    async def _fail(self, replay: Replay, failure: str) -> None:
        log.error("replay.failed", replay_id=str(replay.replay_id), detail=failure)
        async with self._pool.connection() as connection:
            await replay_store.fail_replay(connection, replay, failure)

    async def _note(self, replay: Replay, window: Window) -> None:
        done = window.position is None or window.position >= replay.up_to
        position = replay.up_to if window.position is None else window.position
        async with self._pool.connection() as connection:
            noted = await replay_store.advance_replay(connection, replay, position, len(window.wanted), done=done)
        if done and noted:
            log.info("replay.done", replay_id=str(replay.replay_id), topic=replay.topic)

    async def _open(self, replay: Replay) -> EventProducer:
        if self._producer is not None and self._producer[0].replay_id == replay.replay_id:
            return self._producer[1]
        await self._drop()
        await self._broker.declare(replay.topic)
        settings = self._settings.model_copy(update={"topic": replay.topic})
        further = [(HEADER, str(replay.replay_id).encode())]
        producer = EventProducer(settings, None, further_headers=further, view=TopicView(clock=self._broker.view.clock))
        self._producer = (replay, producer)
        await producer.open()
        return producer

    async def _give_up(self) -> None:
        await self._drop()
        await self._leadership.release(self._pool)

    async def _drop(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer[1], None
            await producer.drop()
