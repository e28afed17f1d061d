"""`bootstrap`: an operator declares that this is the right Kafka; a shard that contradicts it restarts at number 0."""

from contextlib import nullcontext

import structlog

from services.relay import store
from services.relay.domain.shards import Lease, LeaseLost, Reconciliation, reconcile
from services.relay.kafka import positions
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.kafka.topics import TopicsRefused, TopicView
from services.relay.publishing import takeover
from services.relay.publishing.topic_watch import TopicWatch
from services.relay.settings import RelaySettings
from shared.postgres.connections import Connection, connected
from shared.process.exits import Exit
from shared.refusals import Unavailable

log = structlog.get_logger()

# A relay that is taking a shard over may fence the bootstrap once. Every try does all steps, and can be repeated.
TRIES = 3


async def bootstrap(settings: RelaySettings) -> int:
    """Create the topics and reconcile every shard's row with Kafka; return the exit status.

    A shard whose row matches Kafka is reconciled as in any take-over. Any other shard restarts at number 0: events
    that are marked SENT stay SENT, and a batch under way is published, perhaps for the second time.
    Leases are taken by force: a running relay loses its shards, and takes them again afterwards.
    Before all this, a wrong topic is refused, with the command that fixes it.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            async with connected(settings, "relay bootstrap") as connection:
                await _all_shards(connection, settings)
            break
        except TopicsRefused as error:
            log.error("bootstrap.refused", detail=str(error))  # noqa: TRY400 - expected, needs no trace
            return 1
        except (BrokerFailed, LeaseLost, Unavailable) as error:
            if not tries_left or isinstance(error, Unavailable):
                log.error("bootstrap.failed", detail=str(error))  # noqa: TRY400 - expected, needs no trace
                return Exit.FAILED
            log.info("bootstrap.retried", detail=str(error))
    return Exit.DONE


async def _all_shards(connection: Connection, settings: RelaySettings) -> None:
    shards = [holder.shard for holder in await store.shards(connection)]
    broker = Broker(settings)
    try:
        await TopicWatch(settings, broker, lambda: nullcontext(connection)).declare()
    finally:
        await broker.close()
    for shard in shards:
        lease = await store.take_lease(connection, shard, settings.replica, settings.lease_seconds, by_force=True)
        assert lease is not None
        if settings.transactions or lease.claimed:
            await _one_shard(connection, settings, lease, broker.view)
        await store.release_lease(connection, lease)


async def _one_shard(connection: Connection, settings: RelaySettings, lease: Lease, view: TopicView) -> None:
    async with EventProducer(settings, settings.shard_name(lease.shard), view=view) as producer:
        others = takeover.to_fence(settings, lease)
        if others is not None:
            await takeover.fence(settings, others)
        committed = await positions.last_committed(settings, lease.shard)
        if reconcile(lease, committed) is Reconciliation.REFUSED:
            await takeover.begin(connection, lease, producer)
            log.warning("shard.reset", shard=lease.shard, database=lease.number, kafka=committed)
        else:
            number = await takeover.reconcile_shard(connection, settings, lease, producer)
            log.info("shard.reconciled", shard=lease.shard, number=number)
