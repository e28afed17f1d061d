"""Slots: each user has one, and ids of what is a user's contain it. A cell of the platform owns some slots. Pure."""

from uuid import UUID
from zlib import crc32

# Fixed for ever: ids that exist contain their slot. As many as the 12 bits of a UUIDv7 that follow its version.
SLOTS = 4096


def slot_of(user_id: str) -> int:
    """Return a user's slot. A router can compute it too: CRC-32 (as in zlib) of the id in UTF-8, modulo SLOTS."""
    return crc32(user_id.encode()) % SLOTS


def slot_in(id_: UUID) -> int:
    """Return the slot that a UUID contains: the last three digits of its third group, `…-7SSS-…`."""
    return id_.int >> 64 & SLOTS - 1
