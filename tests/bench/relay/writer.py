"""Writes events at a steady rate, as the order service does, and writes down when each transaction was committed.

`python -m tests.bench.relay.writer DATABASE_URL RATE PER_TRANSACTION COUNT PATH`
"""

import asyncio
import sys
import time
from array import array
from pathlib import Path

import asyncpg

from tests.bench.relay.events import INSERT, NOTIFY, rows


async def main(url: str, rate: float, per_transaction: int, count: int) -> bytes:
    """Commit `count` events on a schedule that no slow commit stretches, and return when each was committed."""
    connection = await asyncpg.connect(url)
    committed = array("d", bytes(8 * count))
    started = time.monotonic()
    for first in range(0, count, per_transaction):
        due = started + first / rate
        events = rows(first, min(per_transaction, count - first))
        await asyncio.sleep(max(0, due - time.monotonic()))
        async with connection.transaction():
            await connection.execute(INSERT, *events)
            await connection.execute(NOTIFY)
        now = time.monotonic()
        for number in range(first, first + len(events[0])):
            committed[number] = now
    await connection.close()
    return committed.tobytes()


if __name__ == "__main__":
    timestamps = asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
    Path(sys.argv[5]).write_bytes(timestamps)
