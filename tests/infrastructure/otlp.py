"""A receiver of OTLP over HTTP: decodes the spans that processes export. It can be slow, or refuse."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult


@dataclass(frozen=True, slots=True)
class ExportedSpan:
    """A span as a receiver reads it; ids as in a traceparent, and links as pairs of trace and span id."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    links: Sequence[tuple[str, str]]
    events: Sequence[str]
    attributes: dict[str, Any]


def spans_of(request: ExportTraceServiceRequest) -> Iterator[ExportedSpan]:
    """Yield the spans of an export."""
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield ExportedSpan(
                service,
                span.name,
                span.kind,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.status.code == 2,
                [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                [event.name for event in span.events],
                _values(span.attributes),
            )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@dataclass
class Receiver:
    """A receiver at `url`. While `status` is not 200 it refuses; it answers only while `answers` is set."""

    url: str
    status: int = 200
    bodies: list[bytes] = field(default_factory=list)
    answers: threading.Event = field(default_factory=threading.Event)

    @property
    def spans(self) -> list[ExportedSpan]:
        """Return all spans so far."""
        return [span for body in self.bodies for span in spans_of(ExportTraceServiceRequest.FromString(body))]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.answers.wait()
            if receiver.status == 200:
                assert self.path == "/v1/traces"
                receiver.bodies.append(body)
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    receiver.answers.set()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.answers.set()
        server.shutdown()
        thread.join()
        server.server_close()


class CollectingExporter(SpanExporter):
    """Keeps the spans of this process as a receiver would read them. It can hang, refuse, or have a bug."""

    def __init__(self) -> None:
        self.spans: list[ExportedSpan] = []
        self.result = SpanExportResult.SUCCESS
        self.bug: Exception | None = None
        self.called = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.called.set()
        self.answers.wait()
        if self.bug is not None:
            raise self.bug
        self.spans.extend(spans_of(encode_spans(spans)))
        return self.result
