"""The failures of a shard: names the cause, reports it, and computes the wait before the next take-over."""

import random

import structlog

from services.relay import metrics
from services.relay.domain.events import EventsRefused
from services.relay.domain.shards import TakeOverRefused
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.topics import TopicsRefused
from services.relay.publishing.group_commit import GroupRefused
from shared.process.tasks import LoopSupervisor
from shared.refusals import Unavailable

log = structlog.get_logger()

STATE_CHARACTERS = 1000  # the longest state; a refusal's has the commands that fix the topics
BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 5.0  # the most that a shard adds to an outage of the broker
FAILING_AFTER = 3  # failures in a row; a take-over and a restart of the broker may each cost one

CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (GroupRefused, "refused-events"),
    (EventsRefused, "refused-events"),
    (TopicsRefused, "topics-refused"),
    (TakeOverRefused, "take-over-refused"),
    (Unavailable, "database"),
    (BrokerFailed, "broker"),
)
# An operator has to act: the shard is refused.
FOR_OPERATORS = (TakeOverRefused, TopicsRefused)


class ShardFailures:
    """The failures in a row of one shard; `refused` while the shard waits for an operator."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self.refused = False
        self.in_a_row = 0
        expected = (Unavailable, BrokerFailed, EventsRefused, GroupRefused)
        self._supervisor = LoopSupervisor("shard", "shard.failed", expected=expected)

    @property
    def failing(self) -> bool:
        """Return whether the shard has not been published for a while."""
        return self.refused or self.in_a_row >= FAILING_AFTER

    def failed(self, error: Exception, *, progress: bool) -> str:
        """Count and report an error; return the shard's new state, for people.

        `progress`: the broker answers and the shard gets further, so this is no failure in a row.
        """
        self.in_a_row = 0 if progress else self.in_a_row + 1
        cause = next((cause for kind, cause in CAUSES if isinstance(error, kind)), "bug")
        metrics.FAILURES.labels(self._shard, cause).inc()
        if isinstance(error, FOR_OPERATORS):
            if not self.refused:
                log.error("shard.refused", shard=self._shard, detail=str(error))
            self.refused = True
            metrics.REFUSED.labels(self._shard).set(1)
        else:
            self._supervisor.failed(error, shard=self._shard, cause=cause)
        return f"waiting after {cause}: {error}"[:STATE_CHARACTERS]

    def succeeded(self) -> None:
        """Record that the shard published, or found nothing to publish."""
        self.in_a_row = 0
        self._supervisor.succeeded()

    def accepted(self) -> None:
        """Record that the shard does not wait for an operator."""
        self.refused = False
        metrics.REFUSED.labels(self._shard).set(0)

    def pause_seconds(self) -> float:
        """Return how long to wait before the next take-over: longer after each failure, with jitter."""
        ceiling: float = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** min(self.in_a_row - 1, 10))
        return ceiling * random.uniform(0.5, 1)  # noqa: S311 - jitter
