"""Slots: each user has one, and ids of what is a user's contain it. A cell of the platform owns some slots. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zlib import crc32

from shared.refusals import Refusal

# Fixed for ever: ids that exist contain their slot. As many as the 12 bits of a UUIDv7 that follow its version.
SLOTS = 4096
# Stands, beside slots, for the ids that were made before ids contained a slot. They belong to one cell.
OLDER = "older"
EVERYTHING = (f"0-{SLOTS - 1}", OLDER)

_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Misdirected(Refusal):
    """This request belongs to another cell or product shard; nothing was begun."""

    slug = "misdirected"
    status = 421


def slot_of(id_: str) -> int:
    """Return the slot of a user or of a product.

    A router can compute it too: CRC-32 (as in zlib) of the id in UTF-8, modulo SLOTS.
    """
    return crc32(id_.encode()) % SLOTS


def slot_in(id_: UUID) -> int:
    """Return the slot that a UUID contains: the last three digits of its third group, `…-7SSS-…`."""
    return id_.int >> 64 & SLOTS - 1


def is_in(slots: Mapping[int, UUID], id_: UUID) -> bool:
    """Return whether a UUID contains one of these slots, each with the least id that does: earlier bits are random."""
    first = slots.get(slot_in(id_))
    return first is not None and first <= id_


def least_id(moment: datetime) -> UUID:
    """Return an id below all UUIDv7 that are made at this time or later."""
    return UUID(int=_milliseconds(moment) << 80)


def parse_slots(words: Sequence[str]) -> frozenset[int]:
    """Return the slots that words such as `0-2047` and `3000` stand for; OLDER stands for none. Raises ValueError."""
    found: set[int] = set()
    for word in words:
        if word == OLDER:
            continue
        parts = _RANGE.fullmatch(word)
        first, last = (int(parts[1]), int(parts[2] or parts[1])) if parts else (SLOTS, 0)
        if not first <= last < SLOTS:
            raise ValueError(
                f"{word[:20]} is neither a slot, 0 to {SLOTS - 1}, nor a range such as 0-2047, nor {OLDER}"
            )
        found.update(range(first, last + 1))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which users and ids belong to this cell.

    `older`: whether the ids do that were made before `since_milliseconds` of Unix time. The bits of their slot are
    random, so only their time counts.
    """

    slots: frozenset[int]
    older: bool
    since_milliseconds: int = 0

    @classmethod
    def of(cls, words: Sequence[str], since: datetime | None) -> "Ownership":
        """Return what words such as `0-2047 older` stand for. `since`: when ids began to contain a slot."""
        return cls(parse_slots(words), OLDER in words, 0 if since is None else _milliseconds(since))

    @property
    def words(self) -> list[str]:
        """Return the words that stand for what is owned, in their shortest form."""
        ends = [slot for slot in sorted(self.slots) if slot + 1 not in self.slots]
        starts = [slot for slot in sorted(self.slots) if slot - 1 not in self.slots]
        ranges = [f"{first}-{last}" if last > first else f"{first}" for first, last in zip(starts, ends, strict=True)]
        return [*ranges, *([OLDER] if self.older else [])]

    @property
    def moment(self) -> datetime | None:
        """Return since when ids contain a slot, None if that is not known."""
        return _EPOCH + timedelta(milliseconds=self.since_milliseconds) if self.since_milliseconds else None

    @property
    def bits(self) -> bytes:
        """Return a bit for each slot, as Postgres' get_bit numbers them."""
        owned = bytearray(SLOTS // 8)
        for slot in self.slots:
            owned[slot // 8] |= 1 << slot % 8
        return bytes(owned)

    @property
    def since(self) -> UUID:
        """Return the least id that is not older."""
        return UUID(int=self.since_milliseconds << 80)

    @property
    def is_everything(self) -> bool:
        """Return whether this is the only cell."""
        return self.older and len(self.slots) == SLOTS

    def is_before_slots(self, moment: datetime) -> bool:
        """Return whether an id that is made at this time is older."""
        return _milliseconds(moment) < self.since_milliseconds

    def is_older(self, id_: UUID) -> bool:
        """Return whether an id was made before ids contained a slot."""
        return id_.int >> 80 < self.since_milliseconds

    def owns(self, id_: UUID) -> bool:
        """Return whether an id belongs to this cell."""
        return self.older if self.is_older(id_) else slot_in(id_) in self.slots

    def check_id(self, id_: UUID) -> None:
        """Raise Misdirected unless the id belongs to this cell."""
        if self.owns(id_):
            return
        if self.is_older(id_):
            raise Misdirected("This cell does not own the ids that were made before ids contained a slot.")
        raise _foreign(slot_in(id_))

    def check_user(self, user_id: str) -> None:
        """Raise Misdirected unless the user belongs to this cell."""
        slot = slot_of(user_id)
        if slot not in self.slots:
            raise _foreign(slot)


ONE_CELL = Ownership.of(EVERYTHING, None)


def _milliseconds(moment: datetime) -> int:
    """Return a time as ids have it: no id is of a time before 1970."""
    return max(0, (moment - _EPOCH) // timedelta(milliseconds=1))


def _foreign(slot: int) -> Misdirected:
    return Misdirected(f"This cell does not own slot {slot}.", slot=slot)
