"""What a record says: an event to apply, an event to keep only, or a record that this build can't read.

Also the digests of docs/events.md, by which events are compared with the relay's. No I/O and no clock.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

SHARDS_MIN = 4  # a relay has as many shards as its answers say, always a multiple of this
# The required headers, each with the name that the relay's API uses.
HEADERS = {
    "ce_specversion": "specversion",
    "ce_id": "event_id",
    "ce_type": "type",
    "ce_time": "occurred_at",
    "ce_subject": "order_id",
    "ce_sequence": "sequence",
}
KNOWN = re.compile(r"order\.(placed|paid|expired|cancelled|refunded)\.v(\d+)")
WATERMARK = b"order.watermark.v1"
SEQUENCE = re.compile("[0-9]{1,20}")  # padded with zeros; int() also takes other digits
INT64_MAX = 2**63 - 1
NOT_STORABLE = re.compile("[\0\ud800-\udfff]")  # JSON can write these characters, Postgres can't store them
# Stricter than Python's parsers, which also take "20300101" and "urn:uuid:…".
TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    re.IGNORECASE,
)
UUID_TEXT = re.compile("-".join(f"[0-9a-fA-F]{{{digits}}}" for digits in (8, 4, 4, 4, 12)))
# An event may have other fields as well.
FIELDS: Mapping[str, type] = {"order_id": str, "status": str, "user_id": str, "total_amount": int, "currency": str}

Headers = Sequence[tuple[str, bytes | None]]


class Undecodable(ValueError):  # noqa: N818 - it becomes a dead letter
    """This build can't read the record; the text says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """What this platform keeps of an order."""

    status: str
    user_id: str
    total_amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event. `order` is None if the event's type is unknown: then the event is kept, and changes nothing.

    `place` is the partition and offset of its record; None if it came from the relay. `topic` is the topic of the
    record, or of the relay that sent it.
    """

    event_id: UUID
    order_id: UUID
    sequence: int
    type: str
    occurred_at: datetime
    payload: bytes
    order: Order | None
    place: tuple[int, int] | None = field(default=None, compare=False)
    topic: str = field(default="", compare=False)

    @property
    def sha256(self) -> bytes:
        """Return the hash of the published bytes."""
        return hashlib.sha256(self.payload).digest()

    @property
    def shard(self) -> int:
        """Return the shard modulo SHARDS_MIN: how many its relay has, only the relay knows."""
        return self.order_id.bytes[15] % SHARDS_MIN


def decode(headers: Headers, value: bytes | None, topic: str = "", place: tuple[int, int] | None = None) -> Event:
    """Return the event of a record of that topic, at that partition and offset. Raises Undecodable."""
    attributes = _texts(headers)
    missing = [name for name in HEADERS if name not in attributes]
    if missing:
        raise Undecodable(f"without {', '.join(missing)}")
    if attributes["ce_specversion"] != "1.0":
        raise Undecodable(f"CloudEvents {attributes['ce_specversion']} is unknown")
    return event_of({name: attributes[header] for header, name in HEADERS.items()}, value, topic, place)


def event_of(
    attributes: Mapping[str, Any], payload: bytes | None, topic: str = "", place: tuple[int, int] | None = None
) -> Event:
    """Return the event with these bytes and attributes, named as the relay names them. Raises Undecodable."""
    texts = {name: str(attributes[name]) for name in HEADERS.values() if name != "specversion"}
    try:
        timestamp = parse_timestamp(texts["occurred_at"])
    except ValueError as error:
        raise Undecodable(f"the time {texts['occurred_at']:.100} {error}") from None
    number = _sequence(texts["sequence"])
    if number is None:
        raise Undecodable(f"the sequence {texts['sequence']:.100}")
    event_id, order_id = _uuid(texts["event_id"]), _uuid(texts["order_id"])
    if payload is None:
        raise Undecodable("without a value")
    if NOT_STORABLE.search(texts["type"]):
        raise Undecodable("the type has a NUL or half of a surrogate pair")
    order = order_of(texts["type"], order_id, payload)
    return Event(event_id, order_id, number, texts["type"], timestamp, payload, order, place, topic)


def order_of(type_: str, order_id: UUID, payload: bytes) -> Order | None:
    """Return the order that an event of that type describes, None if the type is unknown. Raises Undecodable."""
    known = KNOWN.fullmatch(type_)
    if known is None:
        return None
    if known[2] != "1":
        # A new version means that reading the event in the old way would be wrong. So it must not be skipped.
        raise Undecodable(f"{type_} is a version that this build does not know")
    try:
        data = json.loads(payload, object_pairs_hook=_unique)
    except Undecodable:
        raise
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"the value is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Undecodable("the value is not an object")
    found = {name: _field(data, name, kind) for name, kind in FIELDS.items()}
    if found.pop("order_id") != str(order_id):
        raise Undecodable(f"the value belongs to another order: {data['order_id']}")
    return Order(**found)


def identity(headers: Headers) -> tuple[UUID | None, int | None]:
    """Return order id and sequence of a record that can't be read, each None if it can't be read either."""
    try:
        attributes = _texts(headers)
        return _uuid(attributes.get("ce_subject", "")), _sequence(attributes.get("ce_sequence", ""))
    except Undecodable:
        return None, None


def decode_watermark(headers: Headers, value: bytes | None) -> dict[str, Any] | None:
    """Return the body of a watermark, or None if this build can't read it."""
    if dict(headers).get("ce_type") != WATERMARK or value is None:
        return None
    try:
        body = json.loads(value)
        parse_timestamp(body["up_to"])
        offsets = {str(int(partition)): offset for partition, offset in body["partitions"].items()}
        missing = [{"order_id": str(_uuid(one["order_id"])), "sequence": one["sequence"]} for one in body["missing"]]
        numbers = [*offsets.values(), body["missing_count"], *(one["sequence"] for one in missing)]
        readable = all(type(number) is int and 0 <= number <= INT64_MAX for number in numbers)
        # Only what is checked: everybody who may write to the topic can put anything else there.
        known = {"up_to": body["up_to"], "topic": body["topic"], "missing_count": body["missing_count"]}
        readable = readable and bool(offsets) and isinstance(body["topic"], str)
        return {**known, "partitions": offsets, "missing": missing} if readable else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def parse_timestamp(text: object) -> datetime:
    """Return the timestamp of an RFC 3339 text with an offset. Raises ValueError.

    Years 1 and 9999 are refused: shifted to UTC, they fall off Python's range.
    """
    if not isinstance(text, str) or not TIMESTAMP.fullmatch(text):
        raise ValueError("must be an RFC 3339 timestamp with its offset, such as 2026-01-31T12:00:00Z")
    timestamp = datetime.fromisoformat(text.upper())
    if not 1 < timestamp.year < 9999:
        raise ValueError("must lie between the years 2 and 9998")
    return timestamp


def minute_of(timestamp: datetime) -> datetime:
    """Return the beginning of a timestamp's minute."""
    return timestamp.replace(second=0, microsecond=0)


def digest(events: Iterable[tuple[UUID, bytes]]) -> tuple[int, str]:
    """Return count and hash of the events of a minute and shard, each given as its id and the SHA-256 of its value."""
    ordered = sorted(events, key=lambda event: event[0].bytes)
    return len(ordered), hashlib.sha256(b"".join(event_id.bytes + sha256 for event_id, sha256 in ordered)).hexdigest()


def differences(theirs: Mapping[UUID, bytes], ours: Mapping[UUID, bytes]) -> dict[str, list[UUID]]:
    """Compare two lists of a minute's events, each id with the SHA-256 of its value.

    The result has the ids that we lack (`missing`), that only we have (`unexpected`), and those whose bytes differ
    (`altered`).
    """
    return {
        "missing": sorted(theirs.keys() - ours.keys()),
        "unexpected": sorted(ours.keys() - theirs.keys()),
        "altered": sorted(event_id for event_id in theirs.keys() & ours.keys() if theirs[event_id] != ours[event_id]),
    }


def _uuid(text: str) -> UUID:
    if not UUID_TEXT.fullmatch(text):
        raise Undecodable("an id must be a UUID of 32 hex digits with four hyphens")
    return UUID(text)


def _sequence(text: str) -> int | None:
    number = int(text) if SEQUENCE.fullmatch(text) else 0
    return number if 1 <= number <= INT64_MAX else None


def _texts(headers: Headers) -> Mapping[str, str]:
    try:
        # Other headers may be anything, for example those of a tracing agent.
        texts = [(name, value.decode()) for name, value in headers if name.startswith("ce_") and value is not None]
    except UnicodeDecodeError as error:
        raise Undecodable(f"a header is not UTF-8: {error}") from None
    return _unique(texts)


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return members by name. Raises Undecodable if a name is there twice: readers differ in which one they keep."""
    found = dict(members)
    if len(found) < len(members):
        raise Undecodable("a header or a member is there twice")
    return found


def _field(data: Mapping[str, Any], name: str, kind: type) -> Any:
    value = data.get(name)
    if type(value) is not kind or (isinstance(value, int) and not 0 <= value <= INT64_MAX):
        raise Undecodable(f"{name} is {value!r:.100}")
    if isinstance(value, str) and NOT_STORABLE.search(value):
        raise Undecodable(f"{name} has a NUL or half of a surrogate pair")
    return value
