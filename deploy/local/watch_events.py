"""Prints the events of the order topic as they arrive: `make watch-events`.

It prints one line per event, from the first event that the broker still has, until Ctrl-C. With `--from-now` it
begins with the next event.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from typing import Any

from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaError

from deploy.local.configuration import local_folder
from deploy.local.folder import Folder, NotRunningError
from deploy.local.terminal import read_run_or_exit
from shared.kafka import KafkaConsumer
from shared.process.exits import Exit

TOPIC = "orders.v1"
FETCH_WAIT_MS = 100  # the embedded broker answers a reader at the end only after this time, even if an event arrives
LOOK_SECONDS = 1.0  # between checks whether the topic exists, and whether the local run still runs

Json = dict[str, Any]


def event_of(record: ConsumerRecord) -> Json:
    """Return the event in a Kafka record: CloudEvents' attributes from the headers, and the data."""
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers if value is not None}
    event: Json = {name.removeprefix("ce_"): value for name, value in headers.items() if name.startswith("ce_")}
    return event | {"partition": record.partition, "offset": record.offset, "data": _data(record.value)}


def line_of(event: Json) -> str:
    """Return the event as a line: time, type, order id, sequence, and the order's main fields."""
    data = event["data"] if isinstance(event["data"], dict) else {}
    sequence = str(event.get("sequence", "?")).lstrip("0") or "0"
    words = [
        str(event.get("time", "?")),
        f"{event.get('type', '?'):<18}",
        str(event.get("subject", "?")),
        f"#{sequence}",
    ]
    words += [f"{name}={data[name]}" for name in ("status", "user_id", "coupon_id") if data.get(name) is not None]
    lines = data.get("lines")
    if isinstance(lines, list):
        words.append("+".join(f"{line.get('quantity')}x{line.get('product_id')}" for line in lines))
    if "total_amount" in data:
        words.append(f"total={data['total_amount']} {data.get('currency', '')}".rstrip())
    return "  ".join(words)


async def watch(kafka: str, *, from_now: bool, as_json: bool) -> None:
    """Print events until cancelled."""
    consumer = KafkaConsumer(
        bootstrap_servers=kafka,
        isolation_level="read_committed",
        auto_offset_reset="latest" if from_now else "earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    await consumer.start()
    try:
        # After subscribing to a missing topic, the client would print nothing until it refreshes, minutes later.
        while TOPIC not in await consumer.topics():  # noqa: ASYNC110 # the broker does not announce new topics
            await asyncio.sleep(LOOK_SECONDS)
        # Without a group: the client reads every partition, and stores no positions.
        consumer.subscribe([TOPIC])
        async for record in consumer:
            event = event_of(record)
            print(json.dumps(event, ensure_ascii=False) if as_json else line_of(event), flush=True)
    finally:
        await consumer.stop()


def _data(value: bytes | None) -> Any:
    try:
        return json.loads(value or b"null")
    except ValueError:
        return (value or b"").decode("utf-8", "replace")


async def _watch_until_the_end(folder: Folder, kafka: str, arguments: argparse.Namespace) -> None:
    """Print events until Ctrl-C, or until the local run has stopped."""
    watching = asyncio.create_task(watch(kafka, from_now=arguments.from_now, as_json=arguments.json))
    ending = asyncio.create_task(_end_of(folder))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ending.cancel)
    await asyncio.wait((watching, ending), return_when=asyncio.FIRST_COMPLETED)
    for task in (watching, ending):
        task.cancel()
    (failure, _) = await asyncio.gather(watching, ending, return_exceptions=True)
    if isinstance(failure, Exception):
        raise failure


async def _end_of(folder: Folder) -> None:
    with contextlib.suppress(NotRunningError):
        while folder.read_run():  # noqa: ASYNC110 # another process writes the file
            await asyncio.sleep(LOOK_SECONDS)
    print("The local run was stopped", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.watch_events", description=__doc__)
    parser.add_argument("--from-now", action="store_true", help="only events that arrive from now on")
    parser.add_argument("--json", action="store_true", help="print each event as a line of JSON")
    arguments = parser.parse_args()
    # The client retries an unreachable broker; its many warnings add no information.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    folder = Folder(local_folder(os.environ))
    kafka = str(read_run_or_exit(folder)["kafka"])
    try:
        asyncio.run(_watch_until_the_end(folder, kafka, arguments))
    except KafkaError as error:
        print(f"Reading {TOPIC} from {kafka} failed: {error}", file=sys.stderr)
        sys.exit(Exit.FAILED)
    except BrokenPipeError:  # the reader has closed the output
        sys.stderr.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # before the event loop takes the signal
        main()
