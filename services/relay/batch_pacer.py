"""Lets events gather at a high rate, since every batch costs Kafka a transaction: most of a core at 300 a second.

Below RATE_MIN each batch leaves at once, for latency. From there the time from one batch to the next grows with the
rate, and a backlog, which has gathered already, doesn't wait at all.
"""

# Events a second and shard; with four shards 800 and 1,400 a second in all.
RATE_MIN, RATE_FULL = 200.0, 350.0
# Leaves the median from commit to consumer below the 50 ms that 2,000 events a second are promised (make bench-relay).
PAUSE_MAX_SECONDS = 0.05
# Of shards that share a transaction, so that half as many of those go out as shards alone would make.
PAUSE_TOGETHER_SECONDS = 0.025
BACKLOG_EVENTS = 100  # of one shard in one batch; more in that time would be 8,000 a second
MEMORY_SECONDS = 1.0  # over which the rate is a mean: longer than a burst, shorter than a sale


class BatchPacer:
    """The rate of what goes out together, and how long its batches stay apart."""

    def __init__(self, least_seconds: float = 0.0, *, most_seconds: float = PAUSE_MAX_SECONDS) -> None:
        """`least_seconds` and `most_seconds`: how long batches stay apart at any rate, and at a high one."""
        self._least_seconds = least_seconds
        self._most_seconds = most_seconds
        self._rate = 0.0  # of a shard
        self._last: float | None = None

    def next_pause(self, events: int, now: float, *, shards: int = 1) -> float:
        """Return the seconds from a batch that was claimed `now`, by a monotonic clock, to the next one.

        `shards`: how many go out together.
        """
        each = events / shards
        if self._last is not None and now > self._last:
            passed = now - self._last
            self._rate += min(1.0, passed / MEMORY_SECONDS) * (each / passed - self._rate)
        self._last = now
        if each >= BACKLOG_EVENTS:
            return 0.0
        busy = min(1.0, max(0.0, (self._rate - RATE_MIN) / (RATE_FULL - RATE_MIN)))
        return max(self._least_seconds, self._most_seconds * busy)
