"""A client's connection: how many there may be, who is answered before anything is begun for it, and who is cut off."""

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

# Connections that are served at a time; each holds some 30 KB, and a file, of which the system gives so many. Some are
# left for the database, for participants and logs.
CONNECTIONS_MAX = max(64, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 128))
TURNED_AWAY = Counter("http_connections_refused_total", "Connections refused because there were too many")


class Door:
    """Where requests of one kind are let in, as far as there is room for them."""

    def __init__(self, turn_away: Callable[[RawRequestMessage, int], bytes | None]) -> None:
        """`turn_away` takes a request and how many others are on the way; it returns all of the answer to a request
        for which there is no room, None for one to let in."""
        self.turn_away = turn_away
        # Let in, and not known yet to those whose room it is. Of a burst, all that came at once would find room.
        self.on_the_way = 0


# By method and path.
Doors = Mapping[tuple[str, str], Door]


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


class Room:
    """How many connections are open."""

    taken = 0

    @property
    def full(self) -> bool:
        """Say whether a further connection would be one too many."""
        return self.taken >= CONNECTIONS_MAX


class TurnedAway(asyncio.Protocol):
    """A connection too many: told so, and closed, before anything is read from it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        TURNED_AWAY.inc()
        writing = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class
        writing.write(_TOO_MANY)
        writing.close()


class Connection(RequestHandler):
    """Turns requests away for which there is no room, answers what isn't valid HTTP with a problem, answers a client
    that has closed its sending side, and cuts off who doesn't read.

    Who doesn't send is cut off by the keep-alive timer (headers) and by read_body (bodies).
    """

    __slots__ = (
        "_answered",
        "_body",
        "_body_unwanted",
        "_doors",
        "_half_closed",
        "_let_in",
        "_room",
        "_user_timeout_seconds",
    )

    def __init__(
        self, manager: web.Server, user_timeout_seconds: float, room: Room, doors: Doors, **options: Any
    ) -> None:
        super().__init__(manager, **options)
        self._user_timeout_seconds = user_timeout_seconds
        self._room = room
        self._doors = doors
        self._let_in: Door | None = None  # who is on the way has come through it
        self._answered = 0  # of the requests that have come, which the library counts
        self._body: StreamReader | None = None  # the latest request's
        self._body_unwanted = False  # the latest request has been answered
        self._half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._room.taken += 1
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._user_timeout_seconds * 1000))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._room.taken -= 1
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come. A request for which there is no room is answered here and now.

        The way through the connection's task costs several times as much, and beyond capacity most requests are
        refused: what they cost is taken from those that are served.
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
        if not self._answered_at_once() and waiter is not None and not waiter.done():
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

    def _answered_at_once(self) -> bool:
        """Answer the request that has come if it is to be turned away, and say whether it was."""
        message, payload = self._messages[0]
        if (
            self._request_count != self._answered + 1  # those before it are answered first
            or not isinstance(message, RawRequestMessage)
            or (door := self._doors.get((message.method, message.path))) is None
            or message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or not payload.is_eof()
            or self._reading_paused
            or self._paused  # who doesn't read is not written to without end
            or self.transport is None
            or not is_valid(message)
        ):
            return False
        answer = door.turn_away(message, door.on_the_way)
        if answer is None:
            self._let_in = door
            door.on_the_way += 1
            return False
        self._messages.clear()
        assert self._parser is not None
        self._parser.message_consumed()
        self.transport.write(answer)
        self._answered += 1
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        return True

    def _arrived(self) -> None:
        """Have the request that was let in, if there is one, on its way no longer."""
        if self._let_in is not None:
            self._let_in.on_the_way -= 1
            self._let_in = None

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
