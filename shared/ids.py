"""Time-ordered ids: UUIDv7 (RFC 9562), so that primary keys are inserted at the right edge of their index."""

import os
import time
from uuid import UUID

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_MASK = ((1 << 12) - 1) << 64 | ((1 << 62) - 1)


def uuid7() -> UUID:
    """Return a new UUIDv7: 48 bits of Unix milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    random_bits = (random << 2 | random >> 78) & _RANDOM_MASK
    return UUID(int=milliseconds << 80 | _VERSION_7 | _VARIANT | random_bits)
