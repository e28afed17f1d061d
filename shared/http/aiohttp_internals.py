"""Every touch of aiohttp's private parts, each with its reason.

They were tested with aiohttp 3.14.5, the version that every requirements.lock pins. Before another version, read the
library's web_protocol.py again, and run tests/unit/shared/test_connection.py and tests/integration/http.
"""

import asyncio
import socket
from typing import Any

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from shared.http import problems
from shared.http.connection import HEADERS_SECONDS, AdmissionGate, AdmissionGates, ConnectionLimit, Handshake, is_valid

log = structlog.get_logger()

# A client that connects to send a request does it within this time; others connect in advance.
FIRST_REQUEST_SECONDS = 1.0
# At the stop, clients may take this long to send what they have begun: a body, or a new connection's first request.
LAST_REQUESTS_SECONDS = 1.0
_LOOKS = 50


async def dispatch(app: web.Application, request: web.Request) -> web.StreamResponse:
    """Handle a request with the handler that the router finds for its path.

    The library's own way answers every `Expect` header itself: it sends 100 even if the request is refused right after.
    That way is also the only one that sets `_match_info`, which handlers read as `request.match_info`.
    """
    match = await app.router.resolve(request)
    match.add_app(app)
    match.freeze()
    request._match_info = match  # noqa: SLF001
    return await match.handler(request)


async def ask_for_body(request: web.Request) -> None:
    """Send the interim answer 100, after which the client sends the body."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def until_received(server: web.Server) -> None:
    """Wait, but not for long, until clients have sent the requests that they have begun.

    When the library closes its connections, it ignores what still comes.
    """
    for _ in range(_LOOKS):
        if not any(isinstance(one, Connection) and one.is_receiving() for one in server.connections):
            return
        await asyncio.sleep(LAST_REQUESTS_SECONDS / _LOOKS)


async def _refuse(request: web.BaseRequest) -> web.StreamResponse:
    if request._message.version not in (HttpVersion11, HttpVersion10):  # noqa: SLF001
        request._version = HttpVersion11  # noqa: SLF001 # the answer's is taken from here
    return problems.bad_http(400, problems.instance(request))


class Connection(RequestHandler):
    """Adds to aiohttp's connection: early rejection without capacity, problems for invalid HTTP, answers to clients
    that have closed their sending side, and a limit for clients that do not read.

    The keep-alive timer (headers) and read_body (bodies) close connections of clients that do not send.

    The library has no hook between the parser and the task of a connection, and drops a connection when the client
    closes its sending side. So this class reads and changes the parser's queue (`_messages`), the future for which the
    task waits (`_waiter`), and the counters beside them.
    """

    __slots__ = (
        "_admitted_by",
        "_answered",
        "_body",
        "_body_unwanted",
        "_connected_at",
        "_gates",
        "_half_closed",
        "_handshake",
        "_limit",
        "_user_timeout_seconds",
    )

    def __init__(
        self,
        manager: web.Server,
        user_timeout_seconds: float,
        limit: ConnectionLimit,
        gates: AdmissionGates,
        handshake: Handshake | None = None,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._user_timeout_seconds = user_timeout_seconds
        self._limit = limit
        self._gates = gates
        self._handshake = handshake  # with TLS: it was counted while it lasted
        self._admitted_by: AdmissionGate | None = None  # of the pending request
        self._answered = 0  # of the requests that have come, which the library counts
        self._body: StreamReader | None = None  # the latest request's
        self._body_unwanted = False  # the latest request has been answered
        self._half_closed = False
        self._connected_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._limit.taken += 1
        if self._handshake is not None:
            self._handshake.end()
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._user_timeout_seconds * 1000))
        self._expect_headers()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limit.leave()
        self._arrived()
        super().connection_lost(exc)
        # A reader refers to its connection: without the cycle, memory is free at once, also of thousands in a burst.
        self._body = None

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and answer a request immediately if there is no capacity for it.

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
            if waiter is not None and not waiter.done():  # all earlier requests have been answered
                self._expect_headers()
            return
        self._body = self._messages[-1][1]
        self._body_unwanted = False
        if not self._rejected_immediately() and waiter is not None and not waiter.done():
            waiter.set_result(None)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's protocols answer, the library's has nothing to say
        """Record that the client sends no more; return whether the connection stays open to answer earlier requests.

        A client that closed the whole connection looks the same until an answer is written. With TLS, event loops can't
        keep a connection half open.
        """
        if self._handshake is not None:
            return False
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

    def is_receiving(self) -> bool:
        """Return whether the client is sending a request, or has just connected to send its first one."""
        if not self._request_count:
            return self._loop.time() < self._connected_at + FIRST_REQUEST_SECONDS
        return bool(self._messages) or not (self._body is None or self._body_unwanted or self._body.is_eof())

    def is_last(self, request: web.BaseRequest) -> bool:
        """Return whether no further request of this connection will be answered."""
        # Of an upgrade the parser drops what follows it in the same packet: no client may wait for an answer to that.
        return bool(request._message.upgrade) or (self._half_closed and not self._messages)  # noqa: SLF001

    def _rejected_immediately(self) -> bool:
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

    def _expect_headers(self) -> None:
        """Close the connection if the headers of its next request are not complete in time.

        The library closes idle connections by this timer, which looks at `_next_keepalive_close_time` again.
        """
        close_time = self._loop.time() + HEADERS_SECONDS
        if close_time < self._next_keepalive_close_time:
            self._next_keepalive_close_time = close_time
            if self._keepalive_handle is not None:
                self._keepalive_handle.cancel()
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)

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
            log.error("request.failed", path=request.rel_url.raw_path, error=repr(exc))
            return problems.bug(problems.instance(request))
        return problems.bad_http(status)
