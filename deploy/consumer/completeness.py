"""Proves that nothing was missed or forged: compares every closed minute with the relay's digest (docs/events.md).

If a minute differs, the minute and the orders are named, missing events are fetched, forged ones are withdrawn, and the
minute is compared again. Gaps within an order are filled without waiting for the minute's end.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from . import intake, store, verification
from .events import differences, digest, minute_of
from .relay import BUCKET, BucketGone, Item, Relays
from .runtime import REGISTRY, Connection, Pool, Unavailable, all_of
from .settings import ConsumerSettings
from .store import Row
from .verification import GIVEN_UP, verify

log = structlog.get_logger()

PROVEN = Gauge("consumer_proven_lag_seconds", "Age of the time up to which records are proven", registry=REGISTRY)
DEAD = Gauge("consumer_dead_letters", "Records that could not be read and are not resolved", registry=REGISTRY)
WAITING = Gauge("consumer_waiting_orders", "Orders whose later events wait for a missing one", registry=REGISTRY)
DIFFERING = Gauge("consumer_differing_buckets", "Minutes of a shard that differ from the relay's", registry=REGISTRY)
FORGED = Gauge("consumer_forged_events", "Events of the topic that the relay doesn't have", registry=REGISTRY)
MISSING = Counter("consumer_missing_events_total", "Events found missing by comparing a minute", registry=REGISTRY)

AGAIN_SECONDS = 15.0  # between two comparisons of a minute that differs or is open
AGAIN_MAX = 100  # minutes that are compared again in one pass
FINDINGS_MAX = 100  # stored of one minute; the log has the count
GAP_ORDERS_MAX = 100  # asked for in one pass, because of a gap or a doubt
GAP_AGAIN_SECONDS = 5.0
FAILURES_MAX = 3  # of orders in one pass: it may be those orders, and must not keep others from their turn
WITHDRAWN_MAX = 100  # events in one transaction

Ours = Mapping[UUID, Row]  # our events of a minute and shard, by event id


class Topic:
    """Compares our records of one topic with those of its relay."""

    def __init__(self, topic: str, settings: ConsumerSettings, pool: Pool, relays: Relays) -> None:
        self._topic = topic
        self._keep = timedelta(hours=settings.keep_hours)
        self._pool = pool
        self._relays = relays
        self._relay = relays[topic]

    async def check(self) -> None:
        """Compare the minutes that can be compared now. Raises Unavailable."""
        async with self._pool.connection() as db:
            watermark = await store.watermark(db, self._topic)
            positions = await store.positions(db, self._topic)
        if watermark is None or not reached(watermark, positions):
            return
        async with self._pool.connection() as db:
            await store.set_removed_before(db, self._topic, watermark["oldest"])
        await self._compare_again()
        up_to = watermark["up_to"]
        start = watermark["checked_up_to"] or await self._begin(up_to)
        await self._compare_new(start, minute_of(up_to))

    async def _begin(self, up_to: datetime) -> datetime:
        """Return the first minute to compare. Older events are doubted if the relay still has their time."""
        async with self._pool.connection() as db:
            first = await store.first_event_at(db, self._topic)
        if first is None:
            # A topic without events, such as a new cell's, must not keep the others from being proven.
            start, doubted = minute_of(up_to), True
        else:
            # It may be forged, so the minutes from there on may be too many. And it may be later than the watermark.
            start = minute_of(min(max(first, up_to - self._keep), up_to))
            try:
                await self._relay.digests(start, start + BUCKET, 0)
            except BucketGone as gone:
                log.warning("minutes.removed", since=start, until=gone.oldest)
                start = gone.oldest
            doubted = await self._relay.keeps(first)
        async with self._pool.transaction() as db:
            # Events that are being stored are not doubted by their own transaction: it does not see this time yet.
            await store.wait_for_events(db)
            await store.set_checked(db, self._topic, start)
            if doubted:
                await store.doubt_before(db, start, self._topic)
        return start

    async def _compare_new(self, start: datetime | None, end: datetime) -> None:
        """Compare the minutes that were never compared."""
        while start is not None and start < end:
            try:
                items, shards, following = await self._relay.digests(start, end)
                await self._compare(items, shards)
            except BucketGone as gone:
                log.warning("minutes.removed", since=start, until=gone.oldest)
                start = gone.oldest
                continue
            start = following
            async with self._pool.connection() as db:
                await store.set_checked(db, self._topic, following or end)

    async def _compare_again(self) -> None:
        """Compare the minutes that were open, differed, or got an event after they were compared."""
        async with self._pool.connection() as db:
            unproven = await store.buckets_to_compare(db, self._topic, AGAIN_SECONDS, AGAIN_MAX)
        for row in unproven:
            try:
                items, shards, _ = await self._relay.digests(row["bucket"], row["bucket"] + BUCKET, row["shard"])
                await self._compare(items, shards, row["findings"])
            except BucketGone:
                # It stays listed until it is pruned. Storing it again puts it behind the minutes that can be compared.
                async with self._pool.connection() as db:
                    await store.put_bucket(db, self._topic, row["bucket"], row["shard"], row["state"], row["findings"])

    async def _compare(self, items: Sequence[Item], shards: int, findings: Sequence[Mapping[str, Any]] = ()) -> None:
        for item in items:
            bucket, shard, found = datetime.fromisoformat(item["bucket"]), item["shard"], list(findings)
            ours = await self._ours(bucket, shard, shards)
            state = judge(item, ours)
            if not equal(item, ours):
                found = await self._repair(bucket, shard, ours, closed=item["closed"]) or found
                state = judge(item, await self._ours(bucket, shard, shards))
            async with self._pool.connection() as db:
                await store.put_bucket(db, self._topic, bucket, shard, state, found[:FINDINGS_MAX])

    async def _ours(self, bucket: datetime, shard: int, shards: int) -> Ours:
        async with self._pool.connection() as db:
            rows = await store.events_of_bucket(db, bucket, shard, self._topic, shards)
        return {row["event_id"]: row for row in rows}

    async def _repair(self, bucket: datetime, shard: int, ours: Ours, *, closed: bool) -> list[Mapping[str, Any]]:
        """Fetch what we lack of a minute of a shard, withdraw what the relay has not, and return what differed.

        While a minute is open, events may be on their way; but what the relay doesn't know it has not sent.
        """
        theirs = {UUID(item["event_id"]): item for item in await self._relay.events_of_bucket(bucket, shard)}
        kinds = differences(
            {event_id: bytes.fromhex(item["sha256"]) for event_id, item in theirs.items() if item["sha256"]},
            {event_id: row["sha256"] for event_id, row in ours.items()},
        )
        unknown = [one for one in kinds["unexpected"] if one not in theirs]
        skipped = [one for one in kinds["unexpected"] if one in theirs and theirs[one]["status"] == GIVEN_UP]
        if not closed:
            kinds |= {"missing": [], "unexpected": [*unknown, *skipped]}
        found: list[Mapping[str, Any]] = []
        for kind, event_ids in kinds.items():
            for event_id in event_ids:
                item = theirs.get(event_id) or ours[event_id]
                place = {"order_id": str(item["order_id"]), "sequence": item["sequence"]}
                found.append({"kind": kind, "event_id": str(event_id), **place})
        MISSING.inc(len(kinds["missing"]))
        if found or closed:
            log.error(
                "minute.differs",
                topic=self._topic,
                bucket=bucket.isoformat(),
                shard=shard,
                **{kind: len(event_ids) for kind, event_ids in kinds.items()},
                orders=sorted({one["order_id"] for one in found})[:FINDINGS_MAX],
            )
        forged = dict.fromkeys(skipped, verification.SKIPPED)
        if len(self._relays) > 1:
            # Another relay may have them: while the addresses of two were mixed up, each one's events were taken as
            # those of the other one's topic.
            for order_id in sorted({ours[one]["order_id"] for one in unknown}):
                await verify(self._pool, self._relays, (), order_id)
        else:
            forged |= dict.fromkeys(unknown, verification.UNKNOWN)
        await self._withdraw(forged, ours)
        wrong = {UUID(theirs[one]["order_id"]) for one in (*kinds["missing"], *kinds["altered"])}
        for order_id in sorted(wrong | {ours[one]["order_id"] for one in kinds["altered"]}):
            await verify(self._pool, self._relays, [self._topic], order_id)
        return found

    async def _withdraw(self, forged: Mapping[UUID, str], ours: Ours) -> None:
        for first in range(0, len(forged), WITHDRAWN_MAX):
            reasons = dict([*forged.items()][first : first + WITHDRAWN_MAX])
            async with self._pool.transaction() as db:
                withdrawn = await intake.withdraw(db, reasons, {ours[one]["order_id"] for one in reasons})
            verification.name(withdrawn, reasons)


class Completeness:
    """Compares our records of all topics with those of their relays."""

    def __init__(self, settings: ConsumerSettings, pool: Pool, relays: Relays) -> None:
        self._pool = pool
        self._relays = relays
        self._topics = [Topic(topic, settings, pool, relays) for topic in relays]
        # By the monotonic clock, so that the lag grows also while it can't be measured. At first, the start.
        self._proven_at = time.monotonic()
        PROVEN.set_function(lambda: time.monotonic() - self._proven_at)

    async def check(self) -> None:
        """Compare the minutes that can be compared now, also if one of several relays is away. Raises Unavailable."""
        await all_of(topic.check() for topic in self._topics)

    async def ask(self) -> None:
        """Have the relays decide on orders with a gap or a doubt. Raises Unavailable, after the other orders."""
        async with self._pool.connection() as db:
            found = await store.orders_to_ask_for(db, GAP_AGAIN_SECONDS, GAP_ORDERS_MAX)
        # Orders with the same relays wait for one another, and not for orders of a relay that hangs.
        by_topics: dict[tuple[str, ...], list[tuple[UUID, datetime | None]]] = {}
        for order_id, doubted_at, topics in found:
            by_topics.setdefault(tuple(topics), []).append((order_id, doubted_at))
        await all_of(self._ask(topics, orders) for topics, orders in by_topics.items())

    async def _ask(self, topics: Sequence[str], orders: Sequence[tuple[UUID, datetime | None]]) -> None:
        failed: list[Unavailable] = []
        for order_id, doubted_at in orders:
            try:
                await verify(self._pool, self._relays, topics, order_id, doubted_at)
            except Unavailable as error:
                failed.append(error)
                if len(failed) == FAILURES_MAX:
                    break
        if failed:
            raise failed[-1]

    async def measure(self) -> None:
        """Set the gauges. Raises Unavailable."""
        async with self._pool.connection() as db:
            counts = await store.counts(db)
            proven, _ = proven_over(await proven_topics(db, self._relays))
        DEAD.set(counts["dead_letters"])
        WAITING.set(counts["waiting_orders"])
        DIFFERING.set(counts["differing_buckets"])
        FORGED.set(counts["forged_events"])
        if proven is not None:
            age_seconds = (counts["now"] - proven).total_seconds()
            self._proven_at = time.monotonic() - age_seconds


def reached(watermark: Row, positions: Mapping[int, int]) -> bool:
    """Return whether everything up to the watermark was read."""
    return all(positions.get(int(partition), -1) >= end for partition, end in watermark["partitions"].items())


def judge(item: Item, ours: Ours) -> str:
    """Return the state of a minute of a shard."""
    if not item["closed"]:
        return "OPEN"
    return "EQUAL" if equal(item, ours) else "DIFFERS"


def equal(item: Item, ours: Ours) -> bool:
    """Return whether the relay's digest of a minute of a shard is the digest of our events."""
    return (item["count"], item["hash"]) == digest((event_id, row["sha256"]) for event_id, row in ours.items())


def proven_up_to(watermark: Row | None, unproven: Sequence[Row]) -> datetime | None:
    """Return the timestamp before which every minute is equal, given the oldest minutes that are not."""
    if watermark is None or watermark["checked_up_to"] is None:
        return None
    oldest: datetime = min([watermark["checked_up_to"], *(row["bucket"] for row in unproven)])
    return oldest


async def proven_topics(db: Connection, topics: Iterable[str]) -> dict[str, datetime | None]:
    """Return up to when each topic is proven complete; None if it never was."""
    return {
        topic: proven_up_to(await store.watermark(db, topic), await store.unproven_buckets(db, topic, 1))
        for topic in topics
    }


def proven_over(topics: Mapping[str, datetime | None]) -> tuple[datetime | None, list[str]]:
    """Return up to when all topics are proven complete, and those that the others wait for.

    A minute is complete when it is complete in each topic, so this is the earliest of their times.
    """
    times = [time for time in topics.values() if time is not None]
    earliest = min(times) if len(times) == len(topics) else None
    behind = [topic for topic, time in topics.items() if time == earliest]
    return earliest, behind if len(behind) < len(topics) else []
