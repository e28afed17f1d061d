"""aiokafka beside confluent-kafka as a shard's producer: how long a transaction takes, and what it costs.

Four shards, each with transactions of its own, with nothing else going on: no database, no consumer. Run it alone:
`python -m tests.bench.relay.producers`
"""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import uvloop
from confluent_kafka import KafkaError, Producer

from services.relay.domain.events import Batch, OutboxEvent
from services.relay.kafka.producer import EventProducer
from services.relay.kafka.records import headers, partitions
from services.relay.settings import RelaySettings
from shared.ids import uuid7
from tests.bench.relay.events import payload
from tests.bench.relay.figures import percentile
from tests.bench.relay.measurement import PARTITIONS, POSTGRES_SETTINGS
from tests.bench.servers import servers
from tests.infrastructure.broker import declare_topic

SHARDS = 4
SIZES = (2, 2000)  # events in a batch: as they come at a steady rate, and from a backlog
ROUNDS = 2  # the first one is the broker's warm-up as well
WARM_SECONDS, SECONDS = 2, 6


class Clock:
    """Notes the transactions that count, and what they cost."""

    def __init__(self) -> None:
        self.begins = time.monotonic() + WARM_SECONDS
        self.ends = self.begins + SECONDS
        self.seconds: list[float] = []
        self._cpu = 0.0

    def over(self) -> bool:
        return time.monotonic() > self.ends

    def note(self, started: float) -> None:
        if time.monotonic() > self.begins:
            self._cpu = self._cpu or time.process_time()
            self.seconds.append(time.monotonic() - started)

    def table_row(self, name: str, size: int) -> str:
        """Return a line of the table."""
        count, cpu = len(self.seconds), time.process_time() - self._cpu
        p50, p99 = (percentile(self.seconds, share) * 1000 for share in (0.5, 0.99))
        cost = cpu / count
        return (
            f"| {name} | {size} | {count / SECONDS:,.0f} | {count * size / SECONDS:,.0f} | {p50:.1f} / {p99:.1f} |"
            f" {cost * 1000:.2f} | {cost / size * 1e6:.1f} |"
        )


def batch(size: int) -> list[OutboxEvent]:
    """Return a batch of `size` events, as a shard claims it."""
    now = datetime.now(UTC)
    return [
        OutboxEvent(number, str(uuid7()), str(uuid7()), 1, "order.paid.v1", payload(number), None, now)
        for number in range(size)
    ]


def with_aiokafka(kafka: str, topic: str, events: list[OutboxEvent], clock: Clock) -> None:
    """Publish with the relay's own producer until the clock ends."""
    settings = RelaySettings(database_url="postgresql://none", kafka_bootstrap_servers=kafka, topic=topic)

    async def shard(number: int) -> None:
        producer = EventProducer(settings, settings.shard_name(number))
        await producer.open()
        batch_number = 0
        while not clock.over():
            started = time.monotonic()
            batch_number += 1
            await producer.publish(Batch(number, batch_number, events))
            clock.note(started)
        await producer.drop()

    async def all_shards() -> None:
        await asyncio.gather(*(shard(number) for number in range(SHARDS)))

    uvloop.run(all_shards())


def with_confluent(kafka: str, topic: str, events: list[OutboxEvent], clock: Clock) -> None:
    """Publish with librdkafka until the clock ends. It blocks, so each shard has a thread."""

    def shard(number: int) -> None:
        options: dict[str, Any] = {
            "bootstrap.servers": kafka,
            "transactional.id": f"{topic}.shard-{number}",
            "transaction.timeout.ms": 10_000,
            "retry.backoff.ms": 5,  # 100 by default, which a transaction would take behind another one
            "retry.backoff.max.ms": 5,
            "linger.ms": 0 if len(events) < 50 else 5,
        }
        producer = Producer(options)
        producer.init_transactions(10)
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                failures.append(error)

        batch_number = 0
        while not clock.over():
            started = time.monotonic()
            batch_number += 1
            producer.begin_transaction()
            keys = [event.order_id.encode() for event in events]
            for event, key, index in zip(events, keys, partitions(keys, PARTITIONS), strict=True):
                attributes: list[tuple[str, str | bytes | None]] = [*headers(event)]
                producer.produce(topic, event.payload, key, partition=index, headers=attributes, on_delivery=delivered)
            position = str(batch_number).encode()
            producer.produce(f"{topic}.positions", position, b"shard", partition=number, on_delivery=delivered)
            producer.commit_transaction(10)
            assert not failures
            clock.note(started)

    threads = [threading.Thread(target=shard, args=(number,)) for number in range(SHARDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


LIBRARIES: dict[str, Callable[[str, str, list[OutboxEvent], Clock], None]] = {
    "aiokafka": with_aiokafka,
    "confluent-kafka": with_confluent,
}


def main() -> None:
    """Measure each library in a process of its own and print a table."""
    print("| library | events a batch | batches/s | events/s | batch p50 / p99 ms | CPU ms a batch | CPU µs an event |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with servers(POSTGRES_SETTINGS) as started:
        for turn in range(ROUNDS):
            for size in SIZES:
                for name in LIBRARIES:
                    topic = f"producers-{turn}-{size}-{name}"
                    for each in (topic, f"{topic}.positions"):
                        declare_topic(started.kafka, each, PARTITIONS)
                    arguments = [name, started.kafka, topic, str(size)]
                    subprocess.run([sys.executable, "-m", "tests.bench.relay.producers", *arguments], check=True)


def one(name: str, kafka: str, topic: str, size: int) -> None:
    """Measure one library."""
    clock = Clock()
    LIBRARIES[name](kafka, topic, batch(size), clock)
    print(clock.table_row(name, size), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
