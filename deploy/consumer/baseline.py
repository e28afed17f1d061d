"""Declares that the order database was restored to an earlier time: from now on, its new history is the true one.

A consumer that was not told would call the lost events forged, and would keep those whose minutes it has compared
already.
"""

import asyncio
from datetime import UTC, datetime

import structlog
from aiokafka.errors import KafkaError

from . import store
from .events import minute_of
from .relay import open_relays
from .runtime import Pool, Unavailable
from .settings import ConsumerSettings
from .watermarks import topic_ends

log = structlog.get_logger()

DUTY = "completeness"
HOLDER = "baseline"
LEASE_SECONDS = 60.0  # longer than the statements take
POLL_SECONDS = 1.0
ONE_RUNS = "a consumer runs: stop all consumers first"


class Refused(Exception):  # noqa: N818 - an operator's mistake
    """A restore can't be declared like this."""


async def declare(settings: ConsumerSettings, since: datetime, topic: str | None = None) -> None:
    """Have every minute of a topic from `since` on compared again with the relay's history.

    `since`: at or before the time of the restored dump. `topic`: needed only if the consumer reads several. The
    consumers must not run: they would note minutes as compared that are not. Afterwards they do the rest: they withdraw
    what the history lacks, take what it has instead, and log each lost event as `event.lost`. Raises Refused or
    Unavailable; then nothing has changed.
    """
    if since > datetime.now(UTC):
        raise Refused(f"{since} is in the future")
    topic = _one_of(settings, topic)
    async with open_relays(settings) as relays, Pool(settings) as pool:
        await relays[topic].up_to()  # without its history, nothing could be compared
        try:
            ends = await topic_ends(settings, topic)
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"Kafka did not answer: {type(error).__name__}") from error
        await _await_end_of_lease(pool)
        async with pool.transaction() as db:
            if not await store.take_leadership(db, DUTY, HOLDER, LEASE_SECONDS):
                raise Refused(ONE_RUNS)
            await store.insert_restore(db, topic, since, ends)
            await store.forget_compared(db, topic, minute_of(since))
            await store.leave_leadership(db, HOLDER)
    log.info("baseline.declared", topic=topic, since=since.isoformat(), partitions=ends)


def _one_of(settings: ConsumerSettings, topic: str | None) -> str:
    """Return the topic whose order database was restored. Raises Refused."""
    topics = list(settings.sources)
    if topic is None and len(topics) > 1:
        raise Refused(f"say with --topic which cell's order database was restored: {', '.join(topics)}")
    if topic is not None and topic not in topics:
        raise Refused(f"the consumer does not read the topic {topic}")
    return topic or topics[0]


async def _await_end_of_lease(pool: Pool) -> None:
    """Wait for the lease of a consumer that was killed, or that runs only in the restored dump. Raises Refused.

    A consumer that runs renews its lease.
    """
    found: datetime | None = None
    while True:
        async with pool.connection() as db:
            lease = await store.leadership(db, DUTY)
        if lease is None:
            return
        if found is None:
            found = lease["lease_until"]
            log.info("baseline.waits", until=found.isoformat(), cause="a consumer ran until recently, or runs")
        elif found != lease["lease_until"]:
            raise Refused(ONE_RUNS)
        await asyncio.sleep(min(lease["seconds_left"], POLL_SECONDS))
