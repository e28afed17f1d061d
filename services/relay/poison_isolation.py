"""Finds the event that the broker refuses: has its batch sent again one by one, and names what is refused alone."""

from services.relay.publisher import CHUNK_BYTES, EventsRefused, smaller

# One record batch each, so a round trip each: this many still end well within the time limit.
ONE_BY_ONE_EVENTS = 500


class PoisonIsolation:
    """Which of a shard's events may be at fault, and how its next batch goes out to find that out."""

    def __init__(self) -> None:
        self.one_by_one = False
        self.chunk_bytes = CHUNK_BYTES
        # Outbox id and reason of events that are to be parked, which whoever has parked one takes out.
        self.to_park: list[tuple[int, str]] = []
        self._for_size = False

    def events_max(self, most: int) -> int:
        """Return how many events the next batch may have, of `most`."""
        return min(most, ONE_BY_ONE_EVENTS) if self.one_by_one else most

    def batch_refused(self, error: EventsRefused) -> bool:
        """Take in what a batch was refused for; return whether there is something to park now."""
        if self.one_by_one:
            self.to_park = [(chunk.events[0].outbox_id, str(error)) for chunk in error.refused]
            return True
        self._for_size = error.too_large_together
        self.one_by_one = True
        return False

    def event_parked(self) -> None:
        """Note that an event was at fault, not the size of its record batch."""
        self._for_size = False

    def batch_published(self) -> None:
        """Note that a batch is out. One by one, all of it: then only whole record batches were too large."""
        if self.one_by_one and self._for_size:
            self.chunk_bytes = smaller(self.chunk_bytes)
        self.one_by_one = self._for_size = False
