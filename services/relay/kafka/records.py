"""An event's record on the topic: CloudEvents 1.0 in Kafka's binary mode, and the partition of its order."""

import sys
from array import array
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from services.relay.domain.events import OutboxEvent

Header = tuple[str, bytes]

_ALWAYS: tuple[Header, ...] = (
    ("ce_specversion", b"1.0"),
    ("ce_source", b"/services/order"),
    ("content-type", b"application/json"),
)
_KEY_WORDS = 9  # keys are UUIDs as text: 36 bytes, whole words, so that murmur2's tail is not needed
_UINT32 = 0xFFFFFFFF
_SEED = 0x9747B28C
_M = 0x5BD1E995


def headers(event: OutboxEvent) -> list[Header]:
    """Return the CloudEvents attributes of an event as Kafka headers."""
    attributes = [
        *_ALWAYS,
        ("ce_id", event.event_id.encode()),
        _type(event.type),
        _time(event.occurred_at),
        ("ce_subject", event.order_id.encode()),
        _sequence(event.sequence),
    ]
    if event.traceparent is not None:
        attributes.append(("ce_traceparent", event.traceparent.encode()))
    return attributes


# Cached, because they repeat: few types, small sequences, and one timestamp for all events of a transaction.
@lru_cache(64)
def _type(type_: str) -> Header:
    return ("ce_type", type_.encode())


@lru_cache(64)
def _sequence(sequence: int) -> Header:
    return ("ce_sequence", b"%020d" % sequence)


@lru_cache(64)
def _time(timestamp: datetime) -> Header:
    return ("ce_time", rfc3339(timestamp).encode())


def rfc3339(timestamp: datetime) -> str:
    """Return a UTC timestamp in CloudEvents' format."""
    return timestamp.isoformat().replace("+00:00", "Z")


def partitions(keys: Sequence[bytes], count: int) -> list[int]:
    """Return each key's partition, as every Kafka client computes it by default (murmur2, positive, modulo `count`).

    All keys are computed together: each is a lane of 64 bits in one long integer, and the lane's upper half holds the
    overflow of a multiplication. One key at a time takes ten times as long: a tenth of a core at 25,000 events/s.
    """
    words = array("I", b"".join(keys))
    if sys.byteorder == "big":
        words.byteswap()
    ones = _lanes(array("Q", [1]) * len(keys))
    low = ones * _UINT32
    h = ones * (_SEED ^ (4 * _KEY_WORDS))
    for word in range(_KEY_WORDS):
        k = (_lanes(array("Q", words[word::_KEY_WORDS])) * _M) & low
        k = (((k ^ (k >> 24)) & low) * _M) & low
        h = ((h * _M) & low) ^ k
    h = (((h ^ (h >> 13)) & low) * _M) & low
    h = (h ^ (h >> 15)) & (ones * 0x7FFFFFFF)
    return [lane % count for lane in array("Q", h.to_bytes(8 * len(keys), sys.byteorder))]


def _lanes(numbers: "array[int]") -> int:
    return int.from_bytes(numbers.tobytes(), sys.byteorder)
