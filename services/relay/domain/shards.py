"""Shards: their leases, how replicas divide them, and what a take-over concludes from Kafka and the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class LeaseLost(Exception):  # noqa: N818 - expected: another replica has taken the shard over
    """The shard is held under a newer epoch."""


class ShardLocked(Exception):  # noqa: N818 - expected: an operator's act, or a transaction that was left open
    """Another transaction keeps a shard's row locked."""


class TakeOverRefused(Exception):  # noqa: N818 - not an error of ours: an operator has to say what is right
    """Kafka and the database contradict each other on what was published."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A shard's row as it was when the shard was taken over.

    `claimed`: how many events of batch `number` are not marked SENT yet; they are published with `transactional_id`.
    `declared`: whether number 0 has been committed to Kafka.
    """

    shard: int
    epoch: int
    number: int
    claimed: int
    declared: bool
    transactional_id: str | None


@dataclass(frozen=True, slots=True)
class ShardHolder:
    """A shard and the replica that holds it; None if no lease is valid."""

    shard: int
    holder: str | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """The events of a shard that are not published."""

    shard: int
    pending: int
    parked: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a replica has to change: shards to take over, and shards to release."""

    take: list[int]
    give: list[int]


def assign(replica: str, live: Sequence[str], holders: Sequence[ShardHolder], mine: Sequence[int]) -> Assignment:
    """Divide the shards evenly among the live replicas; the first replicas by name get one more.

    `mine` are the shards that this replica works on, with or without a lease at present. A replica that isn't among
    the live ones releases its shards to them. If there is no live replica it keeps trying.
    """
    names = sorted(live) or [replica]
    if replica not in names:
        return Assignment([], sorted(mine))
    rest, rank = len(holders) % len(names), names.index(replica)
    fair = len(holders) // len(names) + (1 if rank < rest else 0)
    if len(mine) > fair:
        return Assignment([], sorted(mine)[fair:])
    free = [shard.shard for shard in holders if shard.holder in (None, replica) and shard.shard not in mine]
    start = rank * len(free) // len(names)  # so that replicas that start together try different shards first
    return Assignment((free[start:] + free[:start])[: fair - len(mine)], [])


class Reconciliation(Enum):
    """What Kafka's last committed number says about the batch that was under way."""

    PUBLISHED = "the batch was committed: mark it"
    UNPUBLISHED = "the batch was not committed: claim it again"
    NEW = "nothing was ever published: commit number 0"
    REFUSED = "Kafka and the database contradict each other"


def reconcile(lease: Lease, committed: int | None) -> Reconciliation:
    """Compare the shard's row with the last number committed to Kafka; never guess.

    Any contradiction means that Kafka or the database was emptied, restored or replaced.
    """
    if committed is None:
        untouched = lease.number == 0 and not lease.claimed and not lease.declared
        return Reconciliation.NEW if untouched else Reconciliation.REFUSED
    if committed == lease.number:
        return Reconciliation.PUBLISHED
    if committed == lease.number - 1 and lease.claimed:
        return Reconciliation.UNPUBLISHED
    return Reconciliation.REFUSED
