"""Continues the traces of the events with OpenTelemetry, if its standard variables ask for it.

Each event that was traced has a span below the relay's, and the batch in which it was processed has one that is linked
to all of them. While tracing is off, OpenTelemetry is not even imported.
"""

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka.structs import ConsumerRecord
from prometheus_client import Counter

from .runtime import REGISTRY

DROPPED = Counter(
    "consumer_trace_spans_dropped_total", "Spans that could not be exported", ["reason"], registry=REGISTRY
)
FLUSH_SECONDS = 1.0  # part of the time that supervisors allow for a stop


class _Process:
    """The tracer of this process; None while tracing is off."""

    tracer: Any = None


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Return whether traces are asked for: the exporter is named, or an address for it."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter not in ("", "otlp"):
        return False
    addresses = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return exporter == "otlp" or any(environment.get(name) for name in addresses)


@contextmanager
def exported(exporter: Any = None) -> Iterator[None]:
    """Record spans in the body, and export them until FLUSH_SECONDS after it. By default, as the environment says."""
    if exporter is None and not is_asked_for(os.environ):
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult  # noqa: PLC0415

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it logs each try
    target: SpanExporter = exporter or OTLPSpanExporter()

    class Counted(SpanExporter):
        """Counts the spans whose export has failed."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = target.export(spans)
            if result is not SpanExportResult.SUCCESS:
                DROPPED.labels("export_failed").inc(len(spans))
            return result

        def shutdown(self) -> None:
            target.shutdown()

    name = os.environ.get("OTEL_SERVICE_NAME") or "consumer"
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Counted()))
    _Process.tracer = provider.get_tracer("consumer")
    try:
        yield
    finally:
        _Process.tracer = None
        # The library's own shutdown waits for half a minute.
        flush = threading.Thread(target=provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


@contextmanager
def processed(records: Iterable[ConsumerRecord]) -> Iterator[None]:
    """Record the processing of a batch, which is the body: a span for each traced event, and one for all of them."""
    if _Process.tracer is None:
        yield
        return
    spans = _begin(_Process.tracer, list(records))
    try:
        yield
    except BaseException as error:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        for span in spans:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", type(error).__qualname__)  # its text may quote an event
        raise
    finally:
        for span in spans:
            span.end()


def _begin(tracer: Any, records: Sequence[ConsumerRecord]) -> list[Any]:
    """Begin the span of the batch, and those of its traced events."""
    from opentelemetry.trace import Link, SpanKind, get_current_span, set_span_in_context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    events = []
    for record in records:
        headers = {name: value.decode("ascii", "replace") for name, value in record.headers if value is not None}
        # The relay's span, or else the request that caused the event.
        traceparent = headers.get("traceparent") or headers.get("ce_traceparent") or ""
        context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
        if not get_current_span(context).get_span_context().is_valid:
            continue  # there is no trace to continue
        span = tracer.start_span(
            f"process {record.topic}",
            context,
            SpanKind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
            },
        )
        if span.is_recording():
            events.append(span)
    if not events:
        return []
    links = [Link(span.get_span_context()) for span in events]
    count = {"messaging.batch.message_count": len(records)}
    batch = tracer.start_span("process batch", set_span_in_context(events[0]), SpanKind.INTERNAL, count, links)
    return [batch, *events]
