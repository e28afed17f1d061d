"""Limits open connections, builds the answers of early rejections, and checks what the HTTP parser does not."""

import asyncio
import re
import resource
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import cast

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.http import RawRequestMessage
from prometheus_client import Counter, Gauge

from shared.http import problems
from shared.refusals import Unavailable

# Open connections of each listener; each needs about 30 KB and a file descriptor, which the system limits. A process
# has up to three listeners: clients', services', operators'. Each has descriptors of its own, so that clients who take
# all of theirs leave probes alone. The rest is for the database, the participants and the log.
_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
_OTHER_DESCRIPTORS = 128
INTERNAL_CONNECTIONS_MAX = max(16, min(256, _DESCRIPTORS // 16))  # an order process needs two
CONNECTIONS_MAX = max(64, min(4096, _DESCRIPTORS - _OTHER_DESCRIPTORS - 2 * INTERNAL_CONNECTIONS_MAX))
# A client has this long to send the headers of a request: of the first since it connected, of others since their first
# byte. A connection with half of the headers would otherwise stay as long as an idle one.
HEADERS_SECONDS = 3.0
REJECTED = Counter("http_connections_refused_total", "Connections refused because there were too many")
OPEN = Gauge("http_connections_open", "Open connections", ["listener"])
OPEN_MAX = Gauge("http_connections_max", "Connections that may be open", ["listener"])


class AdmissionGate:
    """Admits or rejects the requests of one route, before anything is begun for them."""

    def __init__(self, reject: Callable[[RawRequestMessage, int], bytes | None]) -> None:
        """`reject` takes a request and the number of pending ones. It returns the bytes of the whole answer if there is
        no capacity for the request, and None to admit it."""
        self.reject = reject
        # Admitted requests whose handler has not begun. Without them, a whole burst would find the same free capacity.
        self.pending = 0


# By method and path.
AdmissionGates = Mapping[tuple[str, str], AdmissionGate]


@lru_cache
def _unavailable(detail: str, retry_after_seconds: int, path: str) -> tuple[bytes, bytes]:
    body = problems.encode(503, Unavailable.slug, problems.UNAVAILABLE, detail, path)
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {retry_after_seconds}\r\n"
        f"Content-Type: {problems.CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode(), b"\r\n" + body


def unavailable(error: Unavailable, path: str, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a whole answer 503. `headers` are added to it."""
    head, rest = _unavailable(str(error), error.retry_after_seconds, path)
    return head + "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode() + rest


_TOO_MANY = unavailable(Unavailable("Too many connections are open."), "", {"Connection": "close"})


# A name or an address, and a port (RFC 9112, 3.2). It may be empty.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|([\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(:[0-9]*)?", re.ASCII)


@lru_cache
def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


def is_valid(message: RawRequestMessage) -> bool:
    """Return whether a request is valid HTTP, beyond what the parser checks.

    The parser accepts unknown versions, any host, and chunks whose end is not reliable: in HTTP/1.0, whose proxies
    don't know chunks, and within a further coding (RFC 9112, 6.1).
    """
    if message.chunked and (
        message.version == HttpVersion10
        or [value.strip().lower() for value in message.headers.getall("Transfer-Encoding")] != ["chunked"]
    ):
        return False
    host = message.headers.get("Host")
    return message.version in (HttpVersion11, HttpVersion10) and (host is None or _is_host(host))


class ConnectionLimit:
    """Counts open connections of a listener, with TLS from before their handshake.

    `listener`: its name in metrics. `internal`: whether it is for services or operators. They need few connections.
    """

    taken = 0

    def __init__(self, listener: str = "", *, internal: bool = False) -> None:
        self._internal = internal
        OPEN.labels(listener).set_function(lambda: self.taken)
        OPEN_MAX.labels(listener).set_function(lambda: self.most)

    def leave(self) -> None:
        """Stop counting a connection."""
        self.taken -= 1

    @property
    def most(self) -> int:
        """Return how many connections may be open."""
        return INTERNAL_CONNECTIONS_MAX if self._internal else CONNECTIONS_MAX

    @property
    def full(self) -> bool:
        """Return whether a further connection would exceed the limit."""
        return self.taken >= self.most


class Handshake:
    """Counts a connection in its TLS handshake until `end` is called, once or several times."""

    def __init__(self, limit: ConnectionLimit) -> None:
        self._limit = limit
        self._counts = True
        limit.taken += 1

    def end(self) -> None:
        """Stop counting it: it is closed, or from now on it is counted as an open connection."""
        if self._counts:
            self._counts = False
            self._limit.leave()


class RejectedConnection(asyncio.Protocol):
    """A connection beyond the limit: answers 503 and closes before anything is read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        REJECTED.inc()
        writing = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class
        writing.write(_TOO_MANY)
        writing.close()
