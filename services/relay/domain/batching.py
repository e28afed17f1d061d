"""When a shard's next batch is published, whether together with other shards, and how long a database call may take."""

from collections.abc import Iterator
from contextlib import contextmanager

SLOW_SECONDS = 0.25  # a claim that passes over dead index entries; in a group it would delay every other shard
ALONE_SECONDS = 10.0

# Events per second and shard; with four shards 800 and 1,400 per second in all.
RATE_MIN, RATE_FULL = 200.0, 350.0
# Leaves the median from commit to consumer below the 50 ms that 2,000 events/s are promised (make bench-relay).
PAUSE_MAX_SECONDS = 0.05
# For shards that share a transaction, so that half as many transactions are made as by shards alone.
PAUSE_TOGETHER_SECONDS = 0.025
BACKLOG_EVENTS = 100  # of one shard in one batch; more in that time would be 8,000 events/s
MEMORY_SECONDS = 1.0  # the rate is a mean over this time: longer than a burst, shorter than a sale

# Long enough for a call to pass over every row that a partition of the outbox ever held. A call that is cut off starts
# again from the beginning.
WALK_SECONDS = 300.0
TIMEOUT_GROWTH = 3


class GroupingPolicy:
    """Decide whether a shard's next batch is published alone or in one transaction with other shards' batches.

    The default is together: few transactions make a quiet shop's events fast. Without transactions a shard is always
    alone. Otherwise it is alone in four cases:

    - It has a backlog. A large batch is worth its own transaction, and several concurrent ones use more of the broker.
    - It failed or was slow alone: for ALONE_SECONDS, so that the problem stays with this shard.
    - A group with it failed: for one batch, because another shard may be the cause. If no group has succeeded since the
      last failed one: for ALONE_SECONDS.
    - A group's claim was slow: for one batch.

    All times are seconds of one monotonic clock.
    """

    def __init__(self, *, transactions: bool) -> None:
        self._transactions = transactions
        self._alone_once = False
        self._backlog = False
        self._group_failed = False
        self._alone_until = float("-inf")

    def wants_group(self, now: float) -> bool:
        """Return whether the next batch is published together with other shards."""
        return self._transactions and not (self._alone_once or self._backlog) and now >= self._alone_until

    def published(self, events: int) -> None:
        """Note that a batch of `events` events was published."""
        self._backlog = events >= BACKLOG_EVENTS
        self._alone_once = False

    def group_succeeded(self) -> None:
        """Note that a group with this shard succeeded."""
        self._group_failed = False

    def group_slow(self) -> None:
        """Note that a group's claim was slow."""
        self._alone_once = True

    def group_failed(self, now: float) -> None:
        """Note that a group with this shard failed."""
        if self._group_failed:
            self.isolate(now)
        self._alone_once = self._group_failed = True

    def isolate(self, now: float) -> None:
        """Keep the shard alone for ALONE_SECONDS, because it failed or was slow alone."""
        self._alone_until = now + ALONE_SECONDS


class BatchPacer:
    """Delay batches at high event rates, because each batch costs one Kafka transaction: most of a core at 300/s.

    Below RATE_MIN each batch is published immediately, for latency. Above it the pause grows with the rate. A backlog
    is not delayed: its batches are full already.
    """

    def __init__(self, least_seconds: float = 0.0, *, most_seconds: float = PAUSE_MAX_SECONDS) -> None:
        """`least_seconds`: the pause between batches at any rate; `most_seconds`: the pause at a high rate."""
        self._least_seconds = least_seconds
        self._most_seconds = most_seconds
        self._rate = 0.0  # events per second of one shard
        self._last: float | None = None

    def next_pause(self, events: int, now: float, *, shards: int = 1) -> float:
        """Return the seconds from a batch claimed at `now`, by a monotonic clock, to the next batch.

        `events`: how many the batch has. `shards`: how many shards share it.
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


class AdaptiveTimeout:
    """The time limit of a database call, which grows each time it was too short.

    A call takes long when it passes over dead index entries that an old snapshot keeps. The limit does not start at its
    maximum, because it also detects a connection whose server is gone: a failover would then cost minutes. It never
    shrinks, because a call that was slow once will be slow again.
    """

    def __init__(self, first_seconds: float) -> None:
        self._seconds = first_seconds

    @contextmanager
    def limit(self) -> Iterator[float]:
        """Yield the limit in seconds for one call in the body, which raises TimeoutError when it is cut off."""
        try:
            yield self._seconds
        except TimeoutError:
            self._seconds = min(WALK_SECONDS, TIMEOUT_GROWTH * self._seconds)
            raise
