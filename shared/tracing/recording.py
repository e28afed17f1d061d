"""Records spans with OpenTelemetry's library, and exports them by OTLP over HTTP, in a thread of its own.

An exporter that is slow or away delays nothing: beyond a bounded queue, spans are dropped and counted.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import uuid4

import structlog
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, ParentBased
from prometheus_client import Counter

from shared.tracing.settings import TracingSettings
from shared.tracing.spans import NOT_RECORDED, Span, SpanKind, recorded_by

log = structlog.get_logger()

# Part of the time that supervisors allow for a stop. What is not exported by then is lost.
FLUSH_SECONDS = 1.0
EXPORTED = Counter("trace_spans_exported_total", "Spans that the receiver has accepted")
DROPPED = Counter("trace_spans_dropped_total", "Spans that were not exported", ["reason"])
for reason in ("queue_full", "export_failed"):
    DROPPED.labels(reason)

_KINDS: Mapping[SpanKind, api.SpanKind] = {
    "internal": api.SpanKind.INTERNAL,
    "server": api.SpanKind.SERVER,
    "client": api.SpanKind.CLIENT,
    "producer": api.SpanKind.PRODUCER,
    "consumer": api.SpanKind.CONSUMER,
}
_ROOT = Context()


@contextmanager
def exported(
    service: str, settings: TracingSettings, exporter: SpanExporter | None = None, *, version: str = ""
) -> Iterator[None]:
    """Record spans in the body, and export them until FLUSH_SECONDS after it.

    `service` is their service's name, unless the settings have another one. `exporter` is by default the one that the
    standard variables configure.
    """
    # The library logs each try; what matters of them is logged here.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    counted = _CountedExporter(exporter or OTLPSpanExporter())
    name = settings.otel_service_name or service
    own = {SERVICE_NAME: name, SERVICE_VERSION: version, SERVICE_INSTANCE_ID: str(uuid4())}
    ids = _Ids()
    provider = TracerProvider(resource=Resource.create(own), id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(_BoundedProcessor(counted, settings.queue_max))
    try:
        with recorded_by(_Recorder(provider, ids)):
            yield
    finally:
        # The library's own shutdown waits for half a minute.
        flush = threading.Thread(target=provider.shutdown, name="flush spans", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


class _Ids(RandomIdGenerator):
    """Gives a trace that begins here the id that the request's log lines have."""

    trace_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id


class _Recorder:
    def __init__(self, provider: TracerProvider, ids: _Ids) -> None:
        self._tracer = provider.get_tracer("order-platform")
        self._sampler = provider.sampler
        self._ids = ids
        # Then spans below one that is not recorded need no sampler: it would decide the same, at ten times the cost.
        self._follows_parents = isinstance(self._sampler, ParentBased) or self._sampler is ALWAYS_OFF

    def begin(self, name: str, kind: SpanKind, traceparent: str, *, is_root: bool) -> Span:
        trace_id = int(traceparent[3:35], 16)
        flags = int(traceparent[53:55], 16) & api.TraceFlags.SAMPLED
        parent = _ROOT
        if is_root:
            self._ids.trace_id = trace_id
        elif not flags and self._follows_parents:
            return NOT_RECORDED
        else:
            remote = api.SpanContext(trace_id, int(traceparent[36:52], 16), True, api.TraceFlags(flags))
            parent = api.set_span_in_context(api.NonRecordingSpan(remote), _ROOT)
        # Asked beforehand: for a span that is not recorded, the library's way costs several times as much.
        if self._sampler.should_sample(parent, trace_id, name, _KINDS[kind]).decision is Decision.DROP:
            return NOT_RECORDED
        return _RecordedSpan(self._tracer, self._tracer.start_span(name, parent, _KINDS[kind]))


class _RecordedSpan(Span):
    recorded = True

    def __init__(self, tracer: api.Tracer, span: api.Span) -> None:
        self._tracer = tracer
        self._span = span
        self.context = span.get_span_context()
        self.trace_id = f"{self.context.trace_id:032x}"
        self.span_id = f"{self.context.span_id:016x}"
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{self.context.trace_flags:02x}"

    def child(self, name: str, kind: SpanKind = "internal") -> Span:
        below = api.set_span_in_context(self._span, _ROOT)
        return _RecordedSpan(self._tracer, self._tracer.start_span(name, below, _KINDS[kind]))

    def set(self, attributes: Mapping[str, object]) -> None:
        plain = {name: value if isinstance(value, int | float) else str(value) for name, value in attributes.items()}
        self._span.set_attributes(plain)

    def event(self, name: str) -> None:
        self._span.add_event(name)

    def fail(self, error: BaseException | str) -> None:
        self._span.set_attribute("error.type", error if isinstance(error, str) else type(error).__qualname__)
        self._span.set_status(api.StatusCode.ERROR)

    def link(self, other: Span) -> None:
        assert isinstance(other, _RecordedSpan)
        self._span.add_link(other.context)

    def end(self, name: str | None = None) -> None:
        if name is not None:
            self._span.update_name(name)
        self._span.end()


class _CountedExporter(SpanExporter):
    """Exports batches, and counts what became of their spans. Runs in the processor's thread."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False
        self.taken = 0  # spans, from the processor's queue

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception:  # noqa: BLE001 - a bug of the library must not end its thread
            result = SpanExportResult.FAILURE
        failed = result is not SpanExportResult.SUCCESS
        (DROPPED.labels("export_failed") if failed else EXPORTED).inc(len(spans))
        if failed and not self._failing:
            log.warning("spans.export_failed", spans=len(spans))
        elif self._failing and not failed:
            log.info("spans.export_recovered")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _BoundedProcessor(BatchSpanProcessor):
    """Drops new spans while the queue is full. The library would drop the oldest, and count them nowhere."""

    def __init__(self, exporter: _CountedExporter, queue_max: int) -> None:
        super().__init__(exporter, max_queue_size=queue_max)
        self._exporter = exporter
        self._queue_max = queue_max
        self._queued = 0  # in all, so that each of the two threads writes a number of its own

    def on_end(self, span: ReadableSpan) -> None:
        if self._queued - self._exporter.taken >= self._queue_max:
            DROPPED.labels("queue_full").inc()
            return
        self._queued += 1
        super().on_end(span)
