"""Digests of one's own records, by the rule of docs/events.md. Standard library only."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

BUCKET = timedelta(minutes=1)
SHARDS = 4


@dataclass(frozen=True, slots=True)
class Digest:
    """Count and hash of the events of one minute and shard."""

    count: int
    hash: str


@dataclass(frozen=True, slots=True)
class Differences:
    """How two lists of a minute's events differ: what the relay has and we don't, what only we have, and what has other
    bytes."""

    missing: Sequence[UUID]
    unexpected: Sequence[UUID]
    altered: Sequence[UUID]


def bucket_of(moment: datetime) -> datetime:
    """Return the minute that a moment is in."""
    return moment.replace(second=0, microsecond=0)


def digest(events: Iterable[tuple[UUID, bytes]]) -> Digest:
    """Return the digest of events, each its id and the SHA-256 of its value."""
    count, found = 0, hashlib.sha256()
    for event_id, sha256 in sorted(events, key=lambda event: event[0].bytes):
        found.update(event_id.bytes + sha256)
        count += 1
    return Digest(count, found.hexdigest())


def differences(theirs: Mapping[UUID, bytes], ours: Mapping[UUID, bytes]) -> Differences:
    """Compare two lists of a minute's events, each id with the SHA-256 of its value."""
    return Differences(
        sorted(theirs.keys() - ours.keys()),
        sorted(ours.keys() - theirs.keys()),
        sorted(event_id for event_id in theirs.keys() & ours.keys() if theirs[event_id] != ours[event_id]),
    )
