"""Consumes a topic like a platform, `read_committed`, and records when each event arrived.

confluent-kafka, because it reads in C: on the machine's two cores a consumer in Python would measure itself.
`python -m tests.bench.relay.consumer BOOTSTRAP TOPIC COUNT SECONDS PATH`
"""

import sys
import time
from array import array
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.bench.relay.events import index
from tests.bench.relay.measurement import PARTITIONS

POLL_SECONDS = 0.1
MESSAGES_MAX = 500


def main(bootstrap: str, topic: str, count: int, seconds: float, path: Path) -> int:
    """Read until every event has arrived; exit status 1 if they are late, or if one comes twice."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    consumer.poll(1)  # until it is connected
    print("ready", flush=True)
    received = array("d", bytes(8 * count))
    deadline = time.monotonic() + seconds
    left = count
    while left and time.monotonic() < deadline:
        first = consumer.poll(POLL_SECONDS)
        now = time.monotonic()
        # Records that came together with the first one are available immediately, and cost less in one call.
        for message in [] if first is None else [first, *consumer.consume(MESSAGES_MAX, 0)]:
            if message.error():
                continue
            number = index(message.value() or b"")
            if received[number]:
                print(f"event {number} came twice", file=sys.stderr)
                return 1
            received[number] = now
            left -= 1
    consumer.close()
    if left:
        print(f"{left} of {count} events did not come within {seconds} s", file=sys.stderr)
        return 1
    path.write_bytes(received.tobytes())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5])))
