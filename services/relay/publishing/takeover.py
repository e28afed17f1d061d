"""Takes a shard over without losing or repeating the batch that the previous holder had under way."""

import structlog

from services.relay import metrics, store
from services.relay.domain.events import Batch
from services.relay.domain.shards import Lease, Reconciliation, TakeOverRefused, reconcile
from services.relay.kafka import positions
from services.relay.kafka.producer import EventProducer
from services.relay.settings import RelaySettings
from shared.postgres.connections import Connection

log = structlog.get_logger()


def to_fence(settings: RelaySettings, lease: Lease) -> str | None:
    """Return the transactional id to fence besides the shard's own; None if there is none."""
    own = settings.shard_name(lease.shard)
    return lease.transactional_id if lease.claimed and lease.transactional_id != own else None


async def fence(settings: RelaySettings, transactional_id: str) -> None:
    """End the open transaction of that id, so that its producer can't commit any more. Raises BrokerFailed.

    If that producer belongs to a live replica, the replica takes the shards of its group over again.
    """
    async with EventProducer(settings, transactional_id):
        pass


async def reconcile_shard(
    connection: Connection, settings: RelaySettings, lease: Lease, producer: EventProducer
) -> int:
    """Reconcile the shard's row with Kafka, and return the number of the last batch.

    To be called with the lease taken, then the shard's own producer open and `to_fence` fenced, in this order: the
    lease keeps other replicas' cycles out, the rest keeps their transactions out, so what Kafka says now stays true.
    Raises LeaseLost, BrokerFailed, Unavailable or TakeOverRefused.
    """
    committed = await positions.last_committed(settings, lease.shard)
    found = reconcile(lease, committed)
    if found is Reconciliation.REFUSED:
        # If this process was paused, its row is old and another replica has published since.
        await store.check_lease(connection, lease)
        raise TakeOverRefused(
            f"shard {lease.shard}: Kafka's last batch is {'none' if committed is None else committed}, the "
            f"database's is {lease.number} with {lease.claimed} events claimed; if this Kafka is new or was emptied, "
            "run python -m services.relay bootstrap"
        )
    if found is Reconciliation.NEW:
        return await begin(connection, lease, producer)
    if found is Reconciliation.UNPUBLISHED:
        return await store.unclaim(connection, lease)
    if lease.claimed:
        metrics.DUPLICATES.labels(lease.shard).inc(lease.claimed)
        metrics.PUBLISHED.labels(lease.shard).inc(lease.claimed)
    await mark(connection, settings, lease, lease.number)
    return lease.number


async def begin(connection: Connection, lease: Lease, producer: EventProducer) -> int:
    """Commit number 0 to Kafka and begin there; a claimed batch will be published, perhaps a second time."""
    await producer.publish(Batch(lease.shard, 0, []))
    return await store.declare(connection, lease)


async def mark(connection: Connection, settings: RelaySettings, lease: Lease, number: int) -> None:
    """Mark the published batch SENT, without claiming another."""
    await store.cycle(
        connection,
        lease,
        number,
        lease_seconds=settings.lease_seconds,
        events_max=0,
        bytes_max=0,
        in_transaction=settings.transactions,
    )
