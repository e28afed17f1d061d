"""A refused event is found by sending its batch one by one; a batch too large only as a whole is split."""

from datetime import UTC, datetime

from aiokafka.errors import MessageSizeTooLargeError

from services.relay.domain.events import (
    CHUNK_BYTES,
    CHUNK_BYTES_MIN,
    ONE_BY_ONE_EVENTS,
    EventsRefused,
    OutboxEvent,
    PoisonIsolation,
)
from services.relay.kafka.errors import InvalidRecordError

TOO_LARGE, WRONG = MessageSizeTooLargeError(), InvalidRecordError()


def refused(error: Exception, *outbox_ids: int) -> EventsRefused:
    """Return a refusal of events, each in its own record batch."""
    return EventsRefused(str(error), [[event] for event in events(*outbox_ids)], too_large=error is TOO_LARGE)


def refused_as_a_whole(error: Exception, *outbox_ids: int) -> EventsRefused:
    """Return a refusal of events in one record batch."""
    return EventsRefused(str(error), [events(*outbox_ids)], too_large=error is TOO_LARGE)


def events(*outbox_ids: int) -> list[OutboxEvent]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return [OutboxEvent(number, "event", "order", 1, "order.paid.v1", b"{}", None, now) for number in outbox_ids]


def test_refused_batch_is_sent_one_by_one_until_published() -> None:
    isolation = PoisonIsolation()
    assert isolation.events_max(10_000) == 10_000
    assert not isolation.batch_refused(refused(WRONG, 1, 2))
    assert (isolation.one_by_one, isolation.to_park) == (True, [])
    assert isolation.events_max(10_000) == ONE_BY_ONE_EVENTS
    assert isolation.events_max(10) == 10
    isolation.batch_published()
    assert (isolation.one_by_one, isolation.chunk_bytes) == (False, CHUNK_BYTES), "its size was not in question"


def test_event_refused_alone_is_to_be_parked() -> None:
    isolation = PoisonIsolation()
    isolation.batch_refused(refused_as_a_whole(TOO_LARGE, 1, 2, 3))
    assert isolation.batch_refused(refused(TOO_LARGE, 2, 3))
    assert [outbox_id for outbox_id, _ in isolation.to_park] == [2, 3]
    isolation.event_parked()
    isolation.batch_published()
    assert isolation.chunk_bytes == CHUNK_BYTES, "an event was at fault, and not how many went together"


def test_batch_too_large_only_together_makes_record_batches_smaller() -> None:
    isolation = PoisonIsolation()
    isolation.batch_refused(refused_as_a_whole(TOO_LARGE, 1, 2))
    isolation.batch_published()
    assert isolation.chunk_bytes == CHUNK_BYTES // 2
    isolation.batch_published()
    assert isolation.chunk_bytes == CHUNK_BYTES // 2


def test_single_too_large_event_leaves_the_record_batch_size() -> None:
    isolation = PoisonIsolation()
    isolation.batch_refused(refused(TOO_LARGE, 9))
    isolation.batch_published()  # the events before it, one by one
    assert isolation.chunk_bytes == CHUNK_BYTES


def test_record_batches_never_get_so_small_that_a_batch_takes_too_many_round_trips() -> None:
    isolation = PoisonIsolation()
    for _ in range(20):
        isolation.batch_refused(refused_as_a_whole(TOO_LARGE, 1, 2))
        isolation.batch_published()
    assert isolation.chunk_bytes == CHUNK_BYTES_MIN
