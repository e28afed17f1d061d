"""Events on their way to Kafka, and the search for the event that Kafka refuses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

# The size of a record batch: below the broker's default of 1 MiB, and the largest event of the outbox still fits.
CHUNK_BYTES = 900_000
# A batch takes one round trip per record batch of a partition. With this size a batch of 4 MiB ends in time.
CHUNK_BYTES_MIN = 16_384
# An event in its own record batch takes a round trip: this many still end well within the time limit.
ONE_BY_ONE_EVENTS = 500


class OutboxEvent(NamedTuple):
    """A claimed row of the outbox. A named tuple, because making it takes a third of a dataclass' time."""

    outbox_id: int
    event_id: str
    order_id: str
    sequence: int
    type: str
    payload: bytes
    traceparent: str | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of one shard that are published together, and the batch's number in that shard."""

    shard: int
    number: int
    events: Sequence[OutboxEvent]


class EventsRefused(Exception):  # noqa: N818 - expected: parks an order
    """The broker refuses some events because of their content or size.

    `chunks` holds the events of each refused record batch.
    """

    def __init__(self, reason: str, chunks: Sequence[Sequence[OutboxEvent]], *, too_large: bool) -> None:
        super().__init__(reason)
        self.chunks = chunks
        self._too_large = too_large

    @property
    def too_large_together(self) -> bool:
        """Return whether smaller record batches may be accepted; one with a single event can't be split."""
        return self._too_large and any(len(chunk) > 1 for chunk in self.chunks)


class PoisonIsolation:
    """Find the refused event of a shard: send its batch again, one event per record batch, and park what is refused."""

    def __init__(self) -> None:
        self.one_by_one = False
        self.chunk_bytes = CHUNK_BYTES
        # Outbox id and reason of each event to park. The caller removes an entry after parking its event.
        self.to_park: list[tuple[int, str]] = []
        self._for_size = False

    def events_max(self, most: int) -> int:
        """Return how many events the next batch may have, at most `most`."""
        return min(most, ONE_BY_ONE_EVENTS) if self.one_by_one else most

    def batch_refused(self, error: EventsRefused) -> bool:
        """Take in a refusal; return whether `to_park` now names the refused events."""
        if self.one_by_one:
            self.to_park = [(chunk[0].outbox_id, str(error)) for chunk in error.chunks]
            return True
        self._for_size = error.too_large_together
        self.one_by_one = True
        return False

    def event_parked(self) -> None:
        """Record that an event itself was refused, so the size of the record batch was not the cause."""
        self._for_size = False

    def batch_published(self) -> None:
        """Record that a batch was published. If its events were only too large together, use smaller record batches."""
        if self.one_by_one and self._for_size:
            self.chunk_bytes = smaller(self.chunk_bytes)
        self.one_by_one = self._for_size = False


def smaller(chunk_bytes: int) -> int:
    """Return the next size in bytes to try when record batches are too large but their events are not."""
    return max(CHUNK_BYTES_MIN, chunk_bytes // 2)
