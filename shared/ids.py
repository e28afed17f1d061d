"""Time-ordered ids: UUIDv7 (RFC 9562), so that primary keys are inserted at the right edge of their index."""

import os
import time
from datetime import datetime
from uuid import UUID

# A subclass of UUID that is made, hashed, printed and sent to Postgres in C.
from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811 - it is one

# Random bytes are read for many ids in one call: a system call costs more than all the rest of an id.
POOL_BYTES = 4096
_pool = bytearray()
os.register_at_fork(after_in_child=_pool.clear)


def _random(count: int) -> bytes:
    if len(_pool) < count:
        _pool[:] = os.urandom(POOL_BYTES)
    taken = bytes(_pool[-count:])
    del _pool[-count:]
    return taken


def random_hex(count: int) -> str:
    """Return `count` random bytes as hex digits."""
    return _random(count).hex()


def uuid7(moment: datetime | None = None, slot: int | None = None) -> UUID:
    """Return a new UUIDv7: 48 bits of Unix milliseconds, 74 random bits.

    `moment`: its time, if a decision depends on it; by default this host's clock, which may be wrong. `slot`: what the
    12 bits after the version are; by default random.
    """
    random = bytearray(_random(16))
    milliseconds = time.time_ns() // 1_000_000 if moment is None else int(moment.timestamp() * 1000)
    random[:6] = milliseconds.to_bytes(6, "big")
    random[6] = 0x70 | random[6] & 0x0F  # the version
    if slot is not None:
        random[6:8] = (0x7000 | slot).to_bytes(2, "big")
    random[8] = 0x80 | random[8] & 0x3F  # the variant
    made: UUID = FastUUID(bytes(random))
    return made
