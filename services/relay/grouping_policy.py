"""When a shard of the relay goes out with the others of its replica, and when alone."""

from services.relay.batch_pacer import BACKLOG_EVENTS

SLOW_SECONDS = 0.25  # a claim that walks over dead entries; beside others it would hold them all up
ALONE_SECONDS = 10.0


class GroupingPolicy:
    """One shard's rule.

    Alone while it has a backlog: batches of many events are worth a transaction each, and several at once use more of
    the broker. Alone for a while after trouble, so that it is this shard's trouble only. And alone once after trouble
    in company, which may have been another's; for a while if nothing got through in company since the last time.
    """

    def __init__(self) -> None:
        self._once = False
        self._backlog = False
        self._group_failed = False
        self._until = float("-inf")

    def wants_group(self, now: float) -> bool:
        """Return whether the next batch goes out with others."""
        return not (self._once or self._backlog) and now >= self._until

    def published(self, events: int) -> None:
        """Note that a batch of so many events is out."""
        self._backlog = events >= BACKLOG_EVENTS
        self._once = False

    def group_succeeded(self) -> None:
        """Note that a round went well in company."""
        self._group_failed = False

    def group_slow(self) -> None:
        """Note a slow claim in company."""
        self._once = True

    def group_failed(self, now: float) -> None:
        """Note trouble in company."""
        if self._group_failed:
            self.isolate(now)
        self._once = self._group_failed = True

    def isolate(self, now: float) -> None:
        """Note trouble of this shard alone."""
        self._until = now + ALONE_SECONDS
