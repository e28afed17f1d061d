"""The fixed set: guards whose comment says why they are there, each with the tests that fail without it.

A guard that changes is changed here too; tests/unit/test_guards.py says which one. A new guard with a comment gets an
entry in the file of its folder.
"""

from collections.abc import Sequence

from tests.mutation.guard import Guard
from tests.mutation.guards import (
    cells,
    connections,
    console,
    consumer,
    consumer_process,
    http,
    kafka,
    leaders,
    orderctl,
    orders,
    participants,
    product_shards,
    relay,
    replay,
    replicas,
    shard_numbers,
    shard_publisher,
    shards,
    shared,
    tls,
    tracing,
)

GUARDS: Sequence[Guard] = (
    *(*replay.GUARDS, *relay.GUARDS, *shard_publisher.GUARDS, *shards.GUARDS, *replicas.GUARDS),
    *(*kafka.GUARDS, *leaders.GUARDS),
    *(*consumer.GUARDS, *consumer_process.GUARDS, *participants.GUARDS, *shared.GUARDS),
    *(*connections.GUARDS, *http.GUARDS, *tls.GUARDS, *tracing.GUARDS, *orders.GUARDS),
    *(*console.GUARDS, *cells.GUARDS, *orderctl.GUARDS, *product_shards.GUARDS, *shard_numbers.GUARDS),
)
