"""The events of a measurement: 1 KB each, with an index that identifies an event for writer and consumer."""

from collections.abc import Sequence
from uuid import UUID

from shared.ids import uuid7

BYTES = 1024
# Like the order service: one statement and one notification per transaction.
INSERT = """
    INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload)
    SELECT event_id, order_id, 1, 'order.paid.v1', payload
    FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS event (event_id, order_id, payload)
"""
NOTIFY = "SELECT pg_notify('orders_outbox', '')"

Rows = tuple[Sequence[UUID], Sequence[UUID], Sequence[bytes]]


def rows(first: int, count: int) -> Rows:
    """Return the arguments of INSERT for the events from index `first` on, each of a different order."""
    return (
        [uuid7() for _ in range(count)],
        [uuid7() for _ in range(count)],
        [payload(number) for number in range(first, first + count)],
    )


def payload(number: int) -> bytes:
    """Return the event with this index."""
    return (b'{"n":%09d,"filler":"' % number).ljust(BYTES - 2, b"x") + b'"}'


def index(value: bytes) -> int:
    """Return the index of the event with this value."""
    return int(value[5:14])
