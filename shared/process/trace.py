"""Request ids and W3C trace context: read or created, logged, returned to the caller and sent with further calls."""

import re
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

from shared.fast_dataclass import fast_dataclass
from shared.ids import random_hex
from shared.tracing import spans

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@fast_dataclass(frozen=True, slots=True)
class Trace:
    """The ids that the log lines, calls and events of one request share."""

    request_id: str
    traceparent: str
    is_root: bool = False  # it was created for this request

    @property
    def trace_id(self) -> str:
        """Return the trace's id: 32 hex digits."""
        return self.traceparent[3:35]

    def headers(self) -> dict[str, str]:
        """Return the headers for a call to another service."""
        return {"X-Request-Id": self.request_id, "traceparent": self.traceparent}


# The ids of what the current task works on, by name. They are read only when something is logged.
subject: ContextVar[Mapping[str, object] | None] = ContextVar("subject", default=None)
current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def from_headers(headers: Mapping[str, str]) -> Trace:
    """Return the caller's trace; create each id that is missing or malformed."""
    request_id = headers.get("X-Request-Id")
    traceparent = headers.get("traceparent")
    made = random_hex(40)
    if not request_id or not _REQUEST_ID.fullmatch(request_id):
        request_id = made[:32]
    if traceparent and _TRACEPARENT.fullmatch(traceparent):
        return Trace(request_id, traceparent)
    # Where spans are recorded, the sampler decides about a new trace. A service that is called follows it by the flag.
    flags = "00" if spans.is_on() else "01"
    return Trace(request_id, f"00-{made[32:64]}-{made[64:]}-{flags}", is_root=True)


def log_fields(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the current trace to a log record (a structlog processor)."""
    span = spans.current.get()
    if span.recorded:
        event.setdefault("trace_id", span.trace_id)
        event.setdefault("span_id", span.span_id)
    trace = current.get()
    if trace is not None:
        event.setdefault("request_id", trace.request_id)
        event.setdefault("trace_id", trace.trace_id)
    for name, what in (subject.get() or {}).items():
        event.setdefault(name, str(what))
    return event
