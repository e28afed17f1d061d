"""A client's connection: limits open connections, rejects requests early when busy, and closes unresponsive ones."""

import asyncio
import re
import resource
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, cast

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from prometheus_client import Counter

from shared.http import problems
from shared.refusals import Unavailable

log = structlog.get_logger()

# Open connections; each needs about 30 KB and a file descriptor, which the system limits. Some descriptors are left for
# the database, the participants and the log.
CONNECTIONS_MAX = max(64, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 128))
REJECTED = Counter("http_connections_refused_total", "Connections refused because there were too many")


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
    """Say whether a request is valid HTTP, beyond what the parser has checked.

    The parser takes versions that nobody speaks, any host, and chunks where their end can't be relied on: in HTTP/1.0,
    whose proxies don't know them, and within a further coding (RFC 9112, 6.1).
    """
    if message.chunked and (
        message.version == HttpVersion10
        or [value.strip().lower() for value in message.headers.getall("Transfer-Encoding")] != ["chunked"]
    ):
        return False
    host = message.headers.get("Host")
    return message.version in (HttpVersion11, HttpVersion10) and (host is None or _is_host(host))


async def _refuse(request: web.BaseRequest) -> web.StreamResponse:
    if request._message.version not in (HttpVersion11, HttpVersion10):  # noqa: SLF001
        request._version = HttpVersion11  # noqa: SLF001 # the answer's is taken from here
    return problems.bad_http(400, problems.instance(request))


class ConnectionLimit:
    """Counts open connections."""

    taken = 0

    @property
    def full(self) -> bool:
        """Return whether a further connection would exceed the limit."""
        return self.taken >= CONNECTIONS_MAX


class RejectedConnection(asyncio.Protocol):
    """A connection beyond the limit: answers 503 and closes before anything is read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        REJECTED.inc()
        writing = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class
        writing.write(_TOO_MANY)
        writing.close()


class Connection(RequestHandler):
    """Adds to aiohttp's connection: early rejection without capacity, problems for invalid HTTP, answers to clients
    that have closed their sending side, and a limit for clients that do not read.

    The keep-alive timer (headers) and read_body (bodies) close connections of clients that do not send.
    """

    __slots__ = (
        "_admitted_by",
        "_answered",
        "_body",
        "_body_unwanted",
        "_gates",
        "_half_closed",
        "_limit",
        "_user_timeout_seconds",
    )

    def __init__(
        self,
        manager: web.Server,
        user_timeout_seconds: float,
        limit: ConnectionLimit,
        gates: AdmissionGates,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._user_timeout_seconds = user_timeout_seconds
        self._limit = limit
        self._gates = gates
        self._admitted_by: AdmissionGate | None = None  # of the pending request
        self._answered = 0  # of the requests that have come, which the library counts
        self._body: StreamReader | None = None  # the latest request's
        self._body_unwanted = False  # the latest request has been answered
        self._half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._limit.taken += 1
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._user_timeout_seconds * 1000))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limit.taken -= 1
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and answer a request at once if there is no capacity for it.

        The way through the connection's task costs several times as much. Under overload most requests are rejected,
        and their cost is taken from the requests that are served.
        """
        if self._messages:  # its task has been woken for them
            super().data_received(data)
            self._body = self._messages[-1][1]
            return
        waiter, self._waiter = self._waiter, None  # or the task would be woken for what is answered without it
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if not self._messages:
            return
        self._body = self._messages[-1][1]
        self._body_unwanted = False
        if not self._rejected_at_once() and waiter is not None and not waiter.done():
            waiter.set_result(None)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's protocols answer, the library's has nothing to say
        """Take note that the client sends no more, and say whether the connection stays to answer what it has sent.

        A client that is gone altogether looks the same, until an answer is written to it.
        """
        waiter = self._waiter
        if not self._messages and (self._request_count == 0 or (waiter is not None and not waiter.done())):
            return False
        self._half_closed = True
        self._lingering_time = 0
        if not self._messages:
            self._close = True  # when the request that is being handled has been answered
        if self._body is not None and not self._body.is_eof():
            if self._body_unwanted:
                self._body.feed_eof()
            else:
                self._body.set_exception(web.RequestPayloadError("The client closed before the end of its body."))
        return True

    def is_last(self, request: web.BaseRequest) -> bool:
        """Say whether no further request of this connection will be answered."""
        # Of an upgrade the parser drops what follows it in the same packet: no client may wait for an answer to that.
        return bool(request._message.upgrade) or (self._half_closed and not self._messages)  # noqa: SLF001

    def _rejected_at_once(self) -> bool:
        """Answer the received request if its gate rejects it; return whether it did."""
        message, payload = self._messages[0]
        if (
            self._request_count != self._answered + 1  # those before it are answered first
            or not isinstance(message, RawRequestMessage)
            or (gate := self._gates.get((message.method, message.path))) is None
            or message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or not payload.is_eof()
            or self._reading_paused
            or self._paused  # else the answers for a client that does not read would pile up
            or self.transport is None
            or not is_valid(message)
        ):
            return False
        answer = gate.reject(message, gate.pending)
        if answer is None:
            self._admitted_by = gate
            gate.pending += 1
            return False
        self._messages.clear()
        assert self._parser is not None
        self._parser.message_consumed()
        self.transport.write(answer)
        self._answered += 1
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        return True

    def _arrived(self) -> None:
        """Stop counting the admitted request, if there is one, as pending."""
        if self._admitted_by is not None:
            self._admitted_by.pending -= 1
            self._admitted_by = None

    async def _handle_request(
        self, request: web.BaseRequest, start_time: float | None, request_handler: Any
    ) -> tuple[web.StreamResponse, bool]:
        self._arrived()
        if not is_valid(request._message):  # noqa: SLF001
            request_handler = _refuse
        response, gone = await super()._handle_request(request, start_time, request_handler)
        self._body_unwanted = not self._messages
        if response.keep_alive and not gone:  # else nothing may follow
            self._answered += 1
        return response, gone

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, _message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500:
            log.error("bug", path=request.rel_url.raw_path, error=repr(exc))
            return problems.bug(problems.instance(request))
        return problems.bad_http(status)
