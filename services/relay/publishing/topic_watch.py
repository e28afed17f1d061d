"""Keeps the process' view of the topics up to date: the recorded number of partitions, and what is wrong.

All replicas share one record in the database. A larger number of partitions is recorded before any replica publishes
with it, and a replica reads it after taking a shard's lease (0007.topics.sql gives the reason).
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog

from services.relay import metrics, store
from services.relay.kafka.admin import CHECK_SECONDS, Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.topics import Requirements, count
from services.relay.settings import RelaySettings
from shared.postgres.connections import Connection
from shared.process.tasks import LoopSupervisor, wait_for
from shared.refusals import Unavailable

log = structlog.get_logger()

# Each look costs three small requests. This is how late the relay notices a change while nothing is published.
LOOK_SECONDS = 2.0


class TopicWatch:
    """Checks the topics regularly, and at each take-over after a failure."""

    def __init__(
        self,
        settings: RelaySettings,
        broker: Broker,
        connection: Callable[[], AbstractAsyncContextManager[Connection]],
    ) -> None:
        """`connection` lends a connection for one statement."""
        self._settings = settings
        self._broker = broker
        self._connection = connection
        # One check at a time: an older view must not replace a newer one.
        self._turn = asyncio.Lock()
        self._looked = False
        self._expected = 0
        self._shards = 0  # until the record was read

    async def run(self, stop: asyncio.Event) -> None:
        """Check until `stop` is set."""
        supervisor = LoopSupervisor("topics", "topics.check_failed", expected=(Unavailable, BrokerFailed))
        while not stop.is_set():
            with supervisor:
                async with self._turn:
                    await self._look(await self._recorded(), seconds=CHECK_SECONDS)
            await wait_for(stop, supervisor.pause(LOOK_SECONDS))

    async def ensure(self) -> None:
        """Bring the view up to date for a shard whose lease was just taken.

        Raises TopicsRefused, BrokerFailed or Unavailable.
        """
        view = self._broker.view
        async with self._turn:
            recorded = await self._recorded()
            if not self._broker.topics_seen or view.refused is not None or recorded != view.partitions:
                await self._look(recorded)
            view.check(view.made_again)

    async def declare(self) -> None:
        """Accept the topics as they are, with fewer partitions than recorded if the settings ask for no more.

        Only an operator may decide this. Raises TopicsRefused, BrokerFailed or Unavailable.
        """
        view = self._broker.view
        async with self._turn:
            recorded = await self._recorded()
            least = None if recorded is None else min(recorded, self._settings.topic_partitions)
            there = await self._look(recorded, least=least)
            view.check(view.made_again)
            async with self._connection() as connection:
                await store.record_partitions(connection, self._settings.topic, there, fewer=True)
            self._note_partitions(there)

    async def _recorded(self) -> int | None:
        async with self._connection() as connection:
            recorded, now, self._shards = await store.topic_partitions(connection, self._settings.topic)
        self._broker.view.clock.observe(now)
        return recorded

    async def _look(self, recorded: int | None, *, least: int | None = None, seconds: float | None = None) -> int:
        """Update the view and return how many partitions there are; fewer than `least` are refused.

        `least` is what is recorded, if it is not given.
        """
        settings = self._settings
        seconds = seconds or settings.kafka_timeout_seconds
        topics, created = await self._broker.look_at_topics(self._shards, recorded, seconds)
        requirements = Requirements(settings, self._shards)
        there = topics[settings.topic].partitions
        if recorded is None or there > recorded:
            async with self._connection() as connection:
                recorded = await store.record_partitions(connection, settings.topic, there)
        elif there < recorded and least is None:
            self._expect(there, recorded)
        refusals = requirements.refusals(topics, least or recorded)
        self._note_partitions(recorded)
        self._note_refusal("; ".join(refusals) or None)
        self._note_doubts(tuple(requirements.doubts(topics)))
        if self._looked and {settings.topic, settings.position_topic}.intersection(created):
            log.warning("topics.recreated", topics=sorted(created))
            self._broker.view.made_again += 1
        self._looked = True
        return there

    def _expect(self, there: int, recorded: int) -> None:
        """Raise BrokerFailed, once for each recorded number, if the broker may not know of added partitions yet."""
        if there == self._broker.view.partitions and self._expected != recorded:
            self._expected = recorded
            raise BrokerFailed(
                f"{self._settings.topic} has {count(there)} as far as this broker knows, and {recorded} by the record"
            )

    def _note_partitions(self, partitions: int) -> None:
        view = self._broker.view
        if view.partitions not in (0, partitions):
            log.warning("topic.partitions_changed", topic=self._settings.topic, before=view.partitions, now=partitions)
        view.partitions = partitions
        metrics.TOPIC_PARTITIONS.set(partitions)

    def _note_refusal(self, refusal: str | None) -> None:
        view = self._broker.view
        if refusal != view.refused:
            if refusal is None:
                log.info("topics.accepted")
            else:
                log.error("topics.refused", detail=refusal)
        view.refused = refusal
        metrics.TOPICS_REFUSED.set(refusal is not None)

    def _note_doubts(self, doubts: tuple[str, ...]) -> None:
        view = self._broker.view
        for doubt in doubts:
            if doubt not in view.doubts:
                log.warning("topic.doubtful", detail=doubt)
        view.doubts = doubts
        metrics.TOPIC_DOUBTS.set(len(doubts))
