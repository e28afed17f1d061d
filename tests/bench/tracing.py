"""`make bench-tracing`: the CPU of all spans of a checkout, by the ratio of recorded requests, and of their export.

One process makes the spans that order, participants and relay make together for a checkout of three steps, with one
checkout in a batch and with sixteen. The export thread of the process sends them to a receiver in another one. CPU of
this process is measured, and the least of all rounds counts, because other processes on the machine only add to it. The
ids that each request gets without tracing are subtracted.
Exit status: 0; 1 if tracing costs more than promised while it is off.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from multiprocessing.connection import Connection
from uuid import uuid4

from services.relay.domain.events import OutboxEvent
from services.relay.kafka.spans import SendSpans
from shared.ids import uuid7
from shared.process import trace
from shared.tracing import spans
from shared.tracing.settings import TracingSettings
from shared.tracing.spans import Span
from tests.infrastructure.otlp import receiving

STEPS = ("hold_stock", "redeem_coupon", "debit")
RATIOS = (None, "0", "0.01", "1")  # None: tracing is off
TOGETHER = (1, 16)  # checkouts in a batch: with one client, and with many
OFF_MAX_US = 5.0  # at 16 checkouts in a batch: below 1% of what a checkout takes in the services (make bench-auth)
PAUSE_SECONDS = 0.003  # a checkout; with it, the export keeps up and drops nothing
KEPT = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")


def batch(name: str, items: Sequence[Span]) -> Span:
    """Do what a batcher does for a batch."""
    span = spans.enter(spans.batch(name, (item for item in items), "internal"))
    span.set({"batch.size": len(items)})
    return span


def checkouts_together(count: int) -> None:
    """Make the spans of checkouts that share each batch."""
    marks = [trace.from_headers({}) for _ in range(count)]
    requests = [spans.begin_request(mark.traceparent, is_root=mark.is_root) for mark in marks]
    stored = [request.traceparent or mark.traceparent for request, mark in zip(requests, marks, strict=True)]
    batch("batch starts", requests).end()
    sagas = [spans.enter(spans.continued("saga place_now", traceparent)) for traceparent in stored]
    for saga in sagas:
        saga.set({"order.id": ORDER, "saga.id": ORDER})
    for step in STEPS:
        commands = [saga.child(step) for saga in sagas]
        call = batch("batch product", commands)
        served = spans.begin_request({**marks[0].headers(), **spans.headers()}["traceparent"], is_root=False)
        batch("batch commands", [served] * count).end()
        spans.end_request(served, "POST", "/internal/v1/commands", 200)
        call.end()
        for command in commands:
            command.set({"outcome": "applied"})
            command.end()
    batch("batch transitions", sagas).end()
    for saga, request in zip(sagas, requests, strict=True):
        saga.set({"order.status": "PAID"})
        saga.end()
        spans.end_request(request, "POST", "/v1/orders", 201)
    with SendSpans("orders.v1", [EVENT._replace(outbox_id=n, traceparent=one) for n, one in enumerate(stored)]):
        pass


def without_spans(count: int) -> None:
    """Do what these checkouts do without spans."""
    marks = [trace.from_headers({}) for _ in range(count)]
    for _ in STEPS:
        _ = {**marks[0].headers()}["traceparent"]
    _ = [EVENT._replace(outbox_id=n, traceparent=mark.traceparent) for n, mark in enumerate(marks)]


ORDER = uuid7()
EVENT = OutboxEvent(1, str(uuid4()), str(ORDER), 1, "order.paid.v1", b"{}", None, None)  # type: ignore[arg-type] # unused


def _receive(pipe: Connection) -> None:
    with receiving() as receiver:
        pipe.send(receiver.url)
        pipe.recv()
        pipe.send(len(receiver.spans))


@contextmanager
def receiver_process() -> Iterator[str]:
    """Run a receiver in a process of its own; yield its URL."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_receive, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        ours.recv()
        process.join()


def cpu_us(ratio: str | None, together: int, checkouts: int, url: str) -> float:
    """Return the CPU of a checkout's spans in microseconds, with that ratio of recorded requests."""
    variables = {} if ratio is None else dict(zip(KEPT, (url, "parentbased_traceidratio", ratio), strict=True))
    for name in KEPT:
        os.environ.pop(name, None)
    os.environ.update(variables)
    rounds = checkouts // together
    began = time.process_time()
    for _ in range(rounds):
        without_spans(together)
    without = time.process_time() - began
    with spans.tracing("bench", "", TracingSettings.model_validate(variables)):
        began = time.process_time()
        for _ in range(rounds):
            checkouts_together(together)
            if ratio == "1":
                time.sleep(PAUSE_SECONDS * together)
    # After the last export.
    return (time.process_time() - began - without) / (rounds * together) * 1e6


def main() -> int:
    """Measure, print and compare with the limit."""
    parser = argparse.ArgumentParser(prog="bench-tracing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each ratio is measured (5)")
    parser.add_argument("--checkouts", type=int, default=3000, help="checkouts in a measurement (3000)")
    arguments = parser.parse_args()
    measured: dict[str, list[float]] = {}
    with receiver_process() as url:
        for _ in range(arguments.rounds):
            for ratio, together in product(RATIOS, TOGETHER):
                name = f"{'off' if ratio is None else f'ratio {ratio}'}, {together} in a batch"
                measured.setdefault(name, []).append(cpu_us(ratio, together, arguments.checkouts, url))
    for name, values in measured.items():
        print(f"{name:>26}: {min(values):7.1f} us of CPU per checkout")
    off = min(measured["off, 16 in a batch"])
    print(f"off, CPU per checkout: {off:.1f} us; promised: {OFF_MAX_US}")
    print(json.dumps(measured))
    return 1 if off > OFF_MAX_US else 0


if __name__ == "__main__":
    sys.exit(main())
