"""What an event is on the topic: CloudEvents 1.0 in Kafka's binary mode, and the partition that its order has."""

import struct
from datetime import datetime
from typing import NamedTuple

Header = tuple[str, bytes]

_ALWAYS: tuple[Header, ...] = (
    ("ce_specversion", b"1.0"),
    ("ce_source", b"/services/order"),
    ("content-type", b"application/json"),
)
_UUID_TEXT = struct.Struct("<9I")
_UINT32 = 0xFFFFFFFF
_SEED = 0x9747B28C
_M = 0x5BD1E995


class OutboxEvent(NamedTuple):
    """A row of the outbox as it is claimed; a tuple, because a named one costs a third of a dataclass."""

    outbox_id: int
    event_id: str
    order_id: str
    sequence: int
    type: str
    payload: bytes
    traceparent: str | None
    occurred_at: datetime


def headers(event: OutboxEvent) -> list[Header]:
    """Return the CloudEvents attributes of an event as Kafka headers."""
    attributes = [
        *_ALWAYS,
        ("ce_id", event.event_id.encode()),
        ("ce_type", event.type.encode()),
        ("ce_time", _rfc3339(event.occurred_at)),
        ("ce_subject", event.order_id.encode()),
        ("ce_sequence", b"%020d" % event.sequence),
    ]
    if event.traceparent is not None:
        attributes.append(("ce_traceparent", event.traceparent.encode()))
    return attributes


def _rfc3339(moment: datetime) -> bytes:
    return moment.isoformat().replace("+00:00", "Z").encode()


def partition(key: bytes, partitions: int) -> int:
    """Return the partition that every Kafka client's default gives this key (murmur2, positive, modulo).

    Keys are UUIDs as text: 36 bytes, nine whole words, so the algorithm's tail is not needed. Hashed here, as the
    client library's own takes three times as long, which at 25,000 events/s is a fifth of a core.
    """
    h = _SEED ^ 36
    for word in _UUID_TEXT.unpack(key):
        k = (word * _M) & _UINT32
        k = ((k ^ (k >> 24)) * _M) & _UINT32
        h = ((h * _M) & _UINT32) ^ k
    h = ((h ^ (h >> 13)) * _M) & _UINT32
    return ((h ^ (h >> 15)) & 0x7FFFFFFF) % partitions
