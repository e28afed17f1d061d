"""Proves our own records complete: at each watermark every minute that is closed is held against what was published.
Where they differ, the minute and the orders are named, what is missing is fetched, and the minute compared again."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

import structlog

from deploy.consumer import gaps, intake, metrics, store
from deploy.consumer.digests import BUCKET, SHARDS, Digest, bucket_of, differences, digest
from deploy.consumer.relay import BucketDigest, BucketGone, Relay, Told
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.store import Watermark
from shared.postgres import Pool, Row

log = structlog.get_logger()

AGAIN_SECONDS = 15.0  # what waits for an operator needs no answer sooner
AGAIN_MAX = 100  # minutes that are compared again in one pass
FINDINGS_MAX = 100  # kept of one minute; the count is in the log

Ours = Mapping[int, Mapping[UUID, tuple[bytes, UUID, int]]]  # by shard and event id: hash, order, sequence


class Completeness:
    """The comparison and what it needs."""

    def __init__(self, settings: ConsumerSettings, pool: Pool, relay: Relay) -> None:
        self._topic = settings.topic
        self._pool = pool
        self._relay = relay

    async def check(self) -> None:
        """Compare what can be compared now. Raises Unavailable."""
        async with self._pool.connection() as db:
            watermark = await store.watermark(db, self._topic)
            positions = await store.positions(db, self._topic)
            first = await store.first_moment(db)
        if watermark is None or not reached(watermark, positions):
            return
        start = watermark.checked_up_to or bucket_of(first or watermark.up_to)
        await self._again()
        await self._further(start, bucket_of(watermark.up_to))

    async def _further(self, start: datetime | None, end: datetime) -> None:
        """Compare the minutes that have never been."""
        while start is not None and start < end:
            try:
                items, following = await self._relay.digests(start, end)
                await self._compare(items)
            except BucketGone as gone:
                log.warning("minutes can't be compared any more", since=start, until=gone.oldest)
                start = gone.oldest
                continue
            start = following
            async with self._pool.connection() as db:
                await store.set_checked(db, self._topic, following or end)

    async def _again(self) -> None:
        """Compare the minutes that were open, differed or have got an event since."""
        async with self._pool.connection() as db:
            unproven = await store.buckets_to_compare(db, AGAIN_SECONDS, AGAIN_MAX)
        for row in unproven:
            try:
                items, _ = await self._relay.digests(row["bucket"], row["bucket"] + BUCKET, row["shard"])
                await self._compare(items, row["findings"])
            except BucketGone:
                # It stays named until it is as old as what is pruned, but those that can be compared come first.
                async with self._pool.connection() as db:
                    await store.put_bucket(db, row["bucket"], row["shard"], row["state"], row["findings"])

    async def _compare(self, items: Sequence[BucketDigest], findings: Sequence[Mapping[str, Any]] = ()) -> None:
        for bucket, of_bucket in groupby(items, key=lambda item: item.bucket):
            ours = await self._ours(bucket)
            for item in of_bucket:
                found = findings
                state = judge(item, digest_of(ours, item.shard))
                if state == "DIFFERS":
                    found = await self._look(item, ours)
                    state = judge(item, digest_of(await self._ours(bucket), item.shard))
                async with self._pool.connection() as db:
                    await store.put_bucket(db, bucket, item.shard, state, found[:FINDINGS_MAX])

    async def _ours(self, bucket: datetime) -> Ours:
        async with self._pool.connection() as db:
            rows = await store.events_of_bucket(db, bucket, bucket + BUCKET)
        return by_shard(rows)

    async def _look(self, item: BucketDigest, ours: Ours) -> list[dict[str, Any]]:
        """Name what differs, and fetch what is missing."""
        theirs = {told.event_id: told for told in await self._relay.events_of_bucket(item.bucket, item.shard)}
        own = ours[item.shard]
        found = findings_of(theirs, own)
        missing = [theirs[one["event_id"]] for one in found if one["kind"] == "missing"]
        metrics.MISSING.inc(len(missing))
        log.error(
            "minute differs",
            bucket=item.bucket.isoformat(),
            shard=item.shard,
            **{kind: sum(one["kind"] == kind for one in found) for kind in ("missing", "unexpected", "altered")},
            orders=sorted({str(one["order_id"]) for one in found})[:FINDINGS_MAX],
        )
        for told in missing:
            fetched = await self._relay.events_of_order(told.order_id, told.sequence, told.sequence)
            events, unreadable = gaps.read(fetched)
            if unreadable:
                log.error("missing event can't be read", order_id=str(told.order_id), sequence=told.sequence)
            async with intake.transaction(self._pool) as db:
                await intake.take(db, events, "relay")
        return [{name: value if isinstance(value, int) else str(value) for name, value in one.items()} for one in found]

    async def measure(self) -> None:
        """Set the gauges. Raises Unavailable."""
        async with self._pool.connection() as db:
            counts = await store.counts(db)
            watermark = await store.watermark(db, self._topic)
            unproven = await store.unproven_buckets(db, 1)
        metrics.DEAD.set(counts["dead_letters"])
        metrics.WAITING.set(counts["waiting_orders"])
        metrics.DIFFERING.set(counts["differing_buckets"])
        proven = proven_up_to(watermark, unproven)
        if proven is not None:
            metrics.PROVEN.set((counts["now"] - proven).total_seconds())


def reached(watermark: Watermark, positions: Mapping[int, int]) -> bool:
    """Say whether everything up to the watermark has been read."""
    return all(positions.get(int(partition), -1) >= end for partition, end in watermark.partitions.items())


def judge(item: BucketDigest, ours: Digest) -> str:
    """Return the state of a minute of a shard."""
    if not item.closed:
        return "OPEN"
    return "EQUAL" if item.digest == ours else "DIFFERS"


def by_shard(rows: Sequence[Row]) -> Ours:
    """Return the events of one minute by shard."""
    found: dict[int, dict[UUID, tuple[bytes, UUID, int]]] = {shard: {} for shard in range(SHARDS)}
    for row in rows:
        found[row["shard"]][row["event_id"]] = (row["sha256"], row["order_id"], row["sequence"])
    return found


def digest_of(ours: Ours, shard: int) -> Digest:
    """Return the digest of what we have of one shard."""
    return digest((event_id, sha256) for event_id, (sha256, _, _) in ours[shard].items())


def findings_of(theirs: Mapping[UUID, Told], own: Mapping[UUID, tuple[bytes, UUID, int]]) -> list[dict[str, Any]]:
    """Return what differs between the relay's list of a minute and ours."""
    published = {event_id: told.sha256 for event_id, told in theirs.items() if told.sha256 is not None}
    found = differences(published, {event_id: sha256 for event_id, (sha256, _, _) in own.items()})
    kinds = {"missing": found.missing, "unexpected": found.unexpected, "altered": found.altered}
    return [
        {"kind": kind, "event_id": event_id, "order_id": order_id, "sequence": sequence}
        for kind, event_ids in kinds.items()
        for event_id in event_ids
        for order_id, sequence in [
            (theirs[event_id].order_id, theirs[event_id].sequence) if event_id in theirs else own[event_id][1:]
        ]
    ]


def proven_up_to(watermark: Watermark | None, unproven: Sequence[Row]) -> datetime | None:
    """Return the moment before which every minute was found equal."""
    if watermark is None or watermark.checked_up_to is None:
        return None
    oldest: datetime = min([watermark.checked_up_to, *(row["bucket"] for row in unproven)])
    return oldest
