"""Faults of Kafka. No customer notices any of them: events wait in the outbox."""

import asyncio
import signal

import asyncpg

from tests.drills.drill import Drill, Fault, now
from tests.drills.platform import Platform
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.waiting import eventually

NOTICED_SECONDS = 60


def ended(number: signal.Signals) -> Fault:
    """Return the fault of a broker that gets a signal and is started again when it has ended."""

    async def strike(platform: Platform) -> float:
        broker = _own(platform)
        await asyncio.to_thread(broker.end, number)
        await asyncio.to_thread(broker.start)
        return now()

    return strike


async def hung(platform: Platform) -> float:
    """Pause the broker."""
    await asyncio.to_thread(platform.broker.pause)
    await asyncio.sleep(platform.pace.fault_seconds)
    platform.broker.wake()
    return now()


async def full(platform: Platform) -> float:
    """Fill the broker's disk until events wait; then give the space back, and start the broker if it has ended."""
    disk, broker = platform.disk("kafka"), _own(platform)
    disk.fill()
    connection = await asyncpg.connect(platform.cluster.database.url)

    async def events_wait() -> bool:
        return bool(await connection.fetchval("SELECT orders.oldest_unpublished_seconds() > $1", 1.5))

    try:
        await eventually(events_wait, NOTICED_SECONDS, "events that wait")
        await asyncio.sleep(platform.pace.fault_seconds)
    finally:
        await connection.close()
        disk.free()
    if not broker.runs:
        await asyncio.to_thread(broker.start)
    return now()


def _own(platform: Platform) -> OwnBroker:
    assert isinstance(platform.broker, OwnBroker)
    return platform.broker


DRILLS = [
    Drill("kafka-restart", "Kafka is stopped and started again", ended(signal.SIGTERM), failed_max=0),
    Drill("kafka-kill", "SIGKILL of Kafka, started again", ended(signal.SIGKILL), failed_max=0),
    Drill("kafka-hang", "SIGSTOP of Kafka, then SIGCONT", hung, failed_max=0, in_short=True),
    Drill("kafka-full", "Kafka's disk is full; Kafka is started again", full, failed_max=0),
]
