"""What the consumer tells Prometheus."""

from prometheus_client import Counter, Gauge

LAG = Gauge("consumer_lag_records", "Records of a partition of this process that are not processed", ["partition"])
PROVEN = Gauge("consumer_proven_lag_seconds", "How far the moment up to which the records are proven is behind now")
RECEIVED = Counter("consumer_events_total", "Events received for the first time", ["source"])
DUPLICATES = Counter("consumer_duplicates_total", "Events that had been received before")
LOST_BATCHES = Counter("consumer_lost_batches_total", "Batches dropped because another process had their partition")
DEAD = Gauge("consumer_dead_letters", "Records that nobody here could read, and nobody has dealt with")
WAITING = Gauge("consumer_waiting_orders", "Orders whose later events wait for a missing one")
DIFFERING = Gauge("consumer_differing_buckets", "Minutes of a shard that differ from what was published")
MISSING = Counter("consumer_missing_events_total", "Events that were found missing by comparing a minute")
