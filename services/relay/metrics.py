"""The relay's metrics, and the loop that measures the backlog for them."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from services.relay.domain.batching import AdaptiveTimeout
from services.relay.domain.shards import Backlog
from shared.postgres import connecting
from shared.postgres.connections import Pool
from shared.process.tasks import LoopSupervisor

BACKLOG_INTERVAL_SECONDS = 5.0  # well within a usual scrape interval of 15 s
# The largest share of the time that the query may take. Published events leave dead index entries, which stay while
# any older transaction is open; each query reads past them.
BACKLOG_SHARE_MAX = 0.02
# While this process was stopped or the database hung, the query took long, but cost nothing. Its alert must end soon.
BACKLOG_PAUSE_MAX_SECONDS = 60.0
BACKLOG_COUNT_MAX = 100_000  # counting more is not worth the database's time

PENDING = Gauge("relay_pending_events", "Events that wait to be published (counting stops at 100,000)", ["shard"])
OLDEST = Gauge("relay_oldest_unpublished_seconds", "Age of the oldest event that waits", ["shard"])
PARKED = Gauge("relay_parked_events", "Events set aside (counting stops at 100,000)", ["shard"])
PARKINGS = Counter("relay_parkings_total", "Events that were set aside since the start", ["shard"])
PUBLISHED = Counter("relay_published_events_total", "Events that reached the topic", ["shard"])
DUPLICATES = Counter(
    "relay_duplicates_suppressed_total", "Events found published at a take-over, and not sent again", ["shard"]
)
BATCH_EVENTS = Histogram(
    "relay_batch_events", "Events in a batch", buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2000, 5000)
)
TRANSACTION_SECONDS = Histogram(
    "relay_transaction_seconds",
    "From the first record of a batch to its commit",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
FAILURES = Counter("relay_failures_total", "Cycles and take-overs that failed and were tried again", ["shard", "cause"])
LEASE_CHANGES = Counter("relay_lease_changes_total", "Shards taken, lost or released here", ["shard", "change"])
REFUSED = Gauge("relay_shard_refused", "1 while the shard waits for an operator's bootstrap", ["shard"])
TOPIC_PARTITIONS = Gauge("relay_topic_partitions", "Partitions of the topic that this process publishes to")
TOPICS_REFUSED = Gauge(
    "relay_topics_refused", "1 while a topic is not what the relay needs, so that nothing is published"
)
TOPIC_DOUBTS = Gauge("relay_topic_doubts", "What operators should know of the topics, though the relay publishes")
WATERMARK_LAG = Gauge("relay_watermark_lag_seconds", "How far the watermark is behind the database's clock")
WATERMARKS = Counter("relay_watermarks_published_total", "Watermarks that this process announced")
PARTITIONS = Gauge("relay_outbox_partitions", "Partitions of the outbox, the next one included")
PARTITIONS_KEPT = Gauge(
    "relay_outbox_partitions_kept", "Partitions past the retention that stay because something in them is unpublished"
)
PARTITIONS_DROPPED = Counter("relay_outbox_partitions_dropped_total", "Partitions that this process removed")
DROPS_PUT_OFF = Counter("relay_outbox_drops_put_off_total", "Removals put off because the outbox was in use")
OLDEST_PARTITION = Gauge("relay_outbox_oldest_partition_seconds", "Since when the oldest partition has been filled")
LAST_CLEANING = Gauge("relay_outbox_last_cleaning_timestamp_seconds", "When this process last cleaned the outbox")
LISTENING = Gauge("relay_listening", "1 while notifications arrive; else events wait for the poll")
REPLAYED = Counter("relay_replayed_events_total", "Events published again, into topics of operators' own")


def batch_is_out(shard: int, events: int) -> None:
    """Count a batch of a shard that has reached the topic."""
    PUBLISHED.labels(shard).inc(events)
    BATCH_EVENTS.observe(events)


async def measure_backlog(pool: Pool, read: Callable[..., Coroutine[Any, Any, Sequence[Backlog]]]) -> None:
    """Set the gauges of every shard, whichever replica holds it, for ever. `read` is the query `backlog`."""
    timeout = AdaptiveTimeout(connecting.COMMAND_TIMEOUT_SECONDS)
    supervisor = LoopSupervisor("backlog", "backlog.failed")
    while True:
        began = time.monotonic()
        with supervisor:
            async with pool.connection() as connection:
                with timeout.limit() as seconds:
                    found = await read(connection, BACKLOG_COUNT_MAX, timeout_seconds=seconds)
                for waiting in found:
                    PENDING.labels(waiting.shard).set(waiting.pending)
                    PARKED.labels(waiting.shard).set(waiting.parked)
                    OLDEST.labels(waiting.shard).set(waiting.oldest_seconds)
        took_seconds = time.monotonic() - began
        pause_seconds = min(max(BACKLOG_INTERVAL_SECONDS, took_seconds / BACKLOG_SHARE_MAX), BACKLOG_PAUSE_MAX_SECONDS)
        await asyncio.sleep(supervisor.pause(pause_seconds))
