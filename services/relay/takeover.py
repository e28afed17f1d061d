"""Takes a shard over without losing or repeating what the one before had under way."""

from enum import Enum

import structlog

from services.relay import metrics, positions, store
from services.relay.publisher import Batch, Publisher, opened
from services.relay.settings import RelaySettings
from services.relay.store import Lease
from shared.postgres import Connection

log = structlog.get_logger()


class Reconciliation(Enum):
    """What Kafka's last committed number says of the batch that was under way."""

    PUBLISHED = "the batch was committed: mark it"
    UNPUBLISHED = "the batch was not committed: claim it again"
    NEW = "nothing was ever published: commit number 0"
    REFUSED = "Kafka and the database contradict each other"


class TakeOverRefused(Exception):  # noqa: N818 - not an error of ours: an operator has to say what is right
    """Kafka and the database contradict each other on what was published."""


def reconcile(lease: Lease, committed: int | None) -> Reconciliation:
    """Compare the shard's row with the last number committed to Kafka; never guess.

    Any contradiction means that Kafka or the database is not the one it was: emptied, restored or swapped.
    """
    if committed is None:
        untouched = lease.number == 0 and not lease.claimed and not lease.declared
        return Reconciliation.NEW if untouched else Reconciliation.REFUSED
    if committed == lease.number:
        return Reconciliation.PUBLISHED
    if committed == lease.number - 1 and lease.claimed:
        return Reconciliation.UNPUBLISHED
    return Reconciliation.REFUSED


def to_fence(settings: RelaySettings, lease: Lease) -> str | None:
    """Return the transactional id that has to be fenced besides the shard's own, None if there is nothing to fence."""
    own = settings.shard_name(lease.shard)
    return lease.transactional_id if lease.claimed and lease.transactional_id != own else None


async def fence(settings: RelaySettings, transactional_id: str) -> None:
    """Settle what was open under that id, and keep whoever has it from committing anything more. Raises BrokerFailed.

    A replica that lives takes over again whatever of its shards went out together.
    """
    async with opened(settings, transactional_id):
        pass


async def settle(connection: Connection, settings: RelaySettings, lease: Lease, publisher: Publisher) -> int:
    """Bring the shard's row in line with Kafka and return the batch number to go on from.

    To be called with the lease taken, then the shard's own publisher open and `to_fence` fenced, in this order: the
    lease keeps other replicas' cycles out, the rest keeps their transactions out, so what Kafka says now stays true.
    Raises LeaseLost, BrokerFailed, Unavailable or TakeOverRefused.
    """
    committed = await positions.last_committed(settings, lease.shard)
    found = reconcile(lease, committed)
    if found is Reconciliation.REFUSED:
        # Whoever was paused here compares its old row with what another replica has published since.
        await store.check_lease(connection, lease)
        raise TakeOverRefused(
            f"shard {lease.shard}: Kafka's last batch is {'none' if committed is None else committed}, the "
            f"database's is {lease.number} with {lease.claimed} events claimed; if this Kafka is new or was emptied, "
            "run python -m services.relay bootstrap"
        )
    if found is Reconciliation.NEW:
        return await begin(connection, lease, publisher)
    if found is Reconciliation.UNPUBLISHED:
        return await store.unclaim(connection, lease)
    if lease.claimed:
        metrics.DUPLICATES.labels(lease.shard).inc(lease.claimed)
        metrics.PUBLISHED.labels(lease.shard).inc(lease.claimed)
    await mark(connection, settings, lease, lease.number)
    return lease.number


async def begin(connection: Connection, lease: Lease, publisher: Publisher) -> int:
    """Commit number 0 to Kafka and begin there; whatever was claimed will be published, perhaps again."""
    await publisher.publish(Batch(lease.shard, 0, []))
    return await store.declare(connection, lease)


async def mark(connection: Connection, settings: RelaySettings, lease: Lease, number: int) -> None:
    """Mark the batch that is out, without claiming another."""
    await store.cycle(
        connection,
        lease,
        number,
        lease_seconds=settings.lease_seconds,
        events_max=0,
        bytes_max=0,
        in_transaction=settings.transactions,
    )
