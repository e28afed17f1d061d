"""Spans: what this process did for a trace, from when to when.

While tracing is off, and below a request that is not sampled, a span is NOT_RECORDED. Its methods do nothing, so
callers need no condition. OpenTelemetry is imported only where tracing is on.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

from shared.tracing.settings import TracingSettings

SpanKind = Literal["internal", "server", "client", "producer", "consumer"]


class Span:
    """A span that is not recorded. Attributes and events name no user, and no value that a client can choose."""

    recorded = False
    trace_id = span_id = traceparent = ""

    def child(self, name: str, kind: SpanKind = "internal") -> "Span":  # noqa: ARG002 - recorded spans use them
        """Begin a span below this one."""
        return self

    def set(self, attributes: Mapping[str, object]) -> None:
        """Add attributes."""

    def event(self, name: str) -> None:
        """Add an event that happens now, such as a retry."""

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed. Only the error's type is recorded: its text may quote what a customer sent."""

    def link(self, other: "Span") -> None:
        """Link to a span of another trace."""

    def end(self, name: str | None = None) -> None:
        """End the span, under another name if that was not known before."""


NOT_RECORDED = Span()
# The span of what the current task works on.
current: ContextVar[Span] = ContextVar("span", default=NOT_RECORDED)


class Recorder(Protocol):
    """Decides which spans are recorded."""

    def begin(self, name: str, kind: SpanKind, traceparent: str, *, is_root: bool) -> Span:
        """Begin a span below the one that `traceparent` names; with `is_root`, the first one of that trace."""


class _Process:
    """The recorder of this process, if tracing is on."""

    recorder: Recorder | None = None


_process = _Process()


@contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Record spans in the body."""
    _process.recorder = recorder
    try:
        yield
    finally:
        _process.recorder = None


@contextmanager
def tracing(service: str, version: str, settings: TracingSettings) -> Iterator[None]:
    """Record and export spans of this version of a service in the body, if the settings ask for it."""
    if not settings.traced:
        yield
        return
    from shared.tracing import recording  # noqa: PLC0415 - costs time and memory, which only tracing shall cost

    with recording.exported(service, settings, version=version):
        yield


def is_on() -> bool:
    """Return whether this process records spans."""
    return _process.recorder is not None


def begin_request(traceparent: str | None, *, is_root: bool) -> Span:
    """Begin the span of a received request, and make it the current one.

    `traceparent` is the caller's, and None for a request that is never recorded. With `is_root` it was made for this
    request.
    """
    recorder = _process.recorder
    if recorder is None or traceparent is None:
        return enter(NOT_RECORDED)  # the task may have handled another request before
    return enter(recorder.begin("request", "server", traceparent, is_root=is_root))


def end_request(span: Span, method: str, route: str, status: int) -> None:
    """End the span of a request that was answered."""
    if not span.recorded:
        return
    span.set({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    if status >= 500:
        span.fail(str(status))
    span.end(f"{method} {route}")


def continued(name: str, traceparent: str | None, kind: SpanKind = "internal") -> Span:
    """Begin a span below one of another process, or of an earlier time, whose trace context was stored."""
    if _process.recorder is None or traceparent is None:
        return NOT_RECORDED
    return _process.recorder.begin(name, kind, traceparent, is_root=False)


def batch(name: str, items: Iterable[Span], kind: SpanKind = "internal") -> Span:
    """Begin the span of a batch, below the first recorded span of its items; it and the others are linked.

    Not a trace of its own: a sampler would rarely choose it, and then no recorded request would show its batches.
    """
    if _process.recorder is None:
        return NOT_RECORDED
    recorded = list(dict.fromkeys(span for span in items if span.recorded))
    if not recorded:
        return NOT_RECORDED
    span = recorded[0].child(name, kind)
    for other in recorded[1:]:
        span.link(other)
        other.link(span)
    return span


def enter(span: Span) -> Span:
    """Make a span the current one of this task, and return it."""
    current.set(span)
    return span


def headers() -> dict[str, str]:
    """Return the header by which a called service continues the current span; none if it is not recorded."""
    span = current.get()
    return {"traceparent": span.traceparent} if span.recorded else {}
