"""Request ids and W3C trace context: taken over or made, carried along, answered, logged and passed on."""

import re
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

from shared.fast_dataclass import fast_dataclass
from shared.ids import random_hex

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@fast_dataclass(frozen=True, slots=True)
class Trace:
    """What ties the log lines, calls and events of one request together."""

    request_id: str
    traceparent: str

    @property
    def trace_id(self) -> str:
        """Return the 32 hex digits that name the whole trace."""
        return self.traceparent[3:35]

    def headers(self) -> dict[str, str]:
        """Return the headers that pass it on."""
        return {"X-Request-Id": self.request_id, "traceparent": self.traceparent}


# What the current task is about, by name; looked at only when something is logged.
subject: ContextVar[Mapping[str, object] | None] = ContextVar("subject", default=None)
current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def take_over(headers: Mapping[str, str]) -> Trace:
    """Return the caller's trace, with what is missing or malformed made anew."""
    request_id = headers.get("X-Request-Id")
    traceparent = headers.get("traceparent")
    made = random_hex(40)
    return Trace(
        request_id if request_id and _REQUEST_ID.fullmatch(request_id) else made[:32],
        traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else f"00-{made[32:64]}-{made[64:]}-01",
    )


def log_fields(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the current trace to a log record (a structlog processor)."""
    trace = current.get()
    if trace is not None:
        event.setdefault("request_id", trace.request_id)
        event.setdefault("trace_id", trace.trace_id)
    for name, what in (subject.get() or {}).items():
        event.setdefault(name, str(what))
    return event
