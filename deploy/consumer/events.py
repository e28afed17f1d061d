"""What a record says: an event that can be applied, one that is only kept, or one that nobody here can read. No I/O."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.notation import parse_timestamp, parse_uuid

REQUIRED = ("ce_specversion", "ce_id", "ce_type", "ce_time", "ce_subject", "ce_sequence")
KNOWN = re.compile(r"order\.(placed|paid|expired|cancelled|refunded)\.v(\d+)")
SEQUENCE = re.compile("[0-9]{1,20}")  # padded with zeros; int() takes more than digits
INT64_MAX = 2**63 - 1


class Undecodable(ValueError):  # noqa: N818 - it becomes a dead letter
    """Nobody here can read this; the text says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """What this platform wants to know of an order."""

    status: str
    user_id: str
    total_amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event; `order` is None if its type is unknown: then it is kept, and changes nothing."""

    event_id: UUID
    order_id: UUID
    sequence: int
    type: str
    occurred_at: datetime
    payload: bytes
    order: Order | None

    @property
    def sha256(self) -> bytes:
        """Return the hash of the bytes that were published."""
        return hashlib.sha256(self.payload).digest()

    @property
    def shard(self) -> int:
        """Return the shard, by the rule that consumers are told."""
        return self.order_id.bytes[15] % 4


def decode(headers: Sequence[tuple[str, bytes | None]], value: bytes | None) -> Event:
    """Return the event of a record. Raises Undecodable."""
    attributes = _texts(headers)
    missing = [name for name in REQUIRED if name not in attributes]
    if missing:
        raise Undecodable(f"without {', '.join(missing)}")
    if attributes["ce_specversion"] != "1.0":
        raise Undecodable(f"CloudEvents {attributes['ce_specversion']} is unknown")
    return event_of(
        event_id=attributes["ce_id"],
        order_id=attributes["ce_subject"],
        sequence=attributes["ce_sequence"],
        type_=attributes["ce_type"],
        occurred_at=attributes["ce_time"],
        payload=value,
    )


def event_of(
    *, event_id: str, order_id: str, sequence: str, type_: str, occurred_at: str, payload: bytes | None
) -> Event:
    """Return the event that these attributes and bytes make. Raises Undecodable."""
    try:
        moment = parse_timestamp(occurred_at)
    except ValueError as error:
        raise Undecodable(f"the time {occurred_at:.100} {error}") from None
    number = _sequence(sequence)
    if number is None:
        raise Undecodable(f"the sequence {sequence:.100}")
    try:
        ids = parse_uuid(event_id), parse_uuid(order_id)
    except ValueError as error:
        raise Undecodable(f"an id {error}") from None
    if payload is None:
        raise Undecodable("without a value")
    known = KNOWN.fullmatch(type_)
    if known and known[2] != "1":
        # A new version is made when the old way of reading would be wrong: not to be passed over.
        raise Undecodable(f"{type_} is a version that this build does not know")
    order = _order(payload, ids[1]) if known else None
    return Event(ids[0], ids[1], number, type_, moment, payload, order)


def identity(headers: Sequence[tuple[str, bytes | None]]) -> tuple[UUID | None, int | None]:
    """Return order and sequence of a record that can't be read, as far as they can."""
    try:
        attributes = _texts(headers)
        order_id = parse_uuid(attributes.get("ce_subject"))
    except ValueError:
        return None, None
    return order_id, _sequence(attributes.get("ce_sequence", ""))


def _sequence(text: str) -> int | None:
    number = int(text) if SEQUENCE.fullmatch(text) else 0
    return number if 1 <= number <= INT64_MAX else None


def _texts(headers: Sequence[tuple[str, bytes | None]]) -> Mapping[str, str]:
    try:
        # Others than CloudEvents' are anybody's, such as those of a tracing agent.
        texts = [(name, value.decode()) for name, value in headers if name.startswith("ce_") and value is not None]
    except UnicodeDecodeError as error:
        raise Undecodable(f"a header is not UTF-8: {error}") from None
    return _unique(texts)


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return members by name. Raises Undecodable for a name that is there twice: readers differ in which they keep."""
    found = dict(members)
    if len(found) < len(members):
        raise Undecodable("a header or a member is there twice")
    return found


def _order(payload: bytes, order_id: UUID) -> Order:
    try:
        data = json.loads(payload, object_pairs_hook=_unique)
    except Undecodable:
        raise
    except ValueError as error:
        raise Undecodable(f"the value is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Undecodable("the value is not an object")
    found = {name: _field(data, name, kind) for name, kind in _FIELDS.items()}
    if found["order_id"] != str(order_id):
        raise Undecodable(f"the value tells of another order: {found['order_id']}")
    return Order(found["status"], found["user_id"], found["total_amount"], found["currency"])


# Fields besides these are not looked at: any may be added.
_FIELDS: Mapping[str, type] = {"order_id": str, "status": str, "user_id": str, "total_amount": int, "currency": str}


def _field(data: Mapping[str, Any], name: str, kind: type) -> Any:
    value = data.get(name)
    if type(value) is not kind or (isinstance(value, int) and not 0 <= value <= INT64_MAX):
        raise Undecodable(f"{name} is {value!r:.100}")
    if isinstance(value, str) and "\0" in value:
        raise Undecodable(f"{name} has a NUL")
    return value
