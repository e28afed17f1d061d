"""Requests without capacity are answered in order; whole ones without waking the connection's task."""

import asyncio
import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from aiohttp.http import RawRequestMessage
from hypothesis import given
from hypothesis import strategies as st

from shared.http import aiohttp_internals
from shared.http.aiohttp_internals import Connection
from shared.http.connection import HEADERS_SECONDS, AdmissionGate, ConnectionLimit, Handshake, unavailable
from shared.refusals import Unavailable

ANSWER_SECONDS = 5
REFUSED = unavailable(Unavailable("No capacity."), "/crowded", {})
BODY = b"POST /crowded HTTP/1.1\r\nHost: x\r\n\r\n"  # looks like a request, but is the body of one
CROWDED = b"POST /crowded HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"POST /crowded HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
OTHER = b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(CROWDED) + CROWDED
STATUSES = {CROWDED: 503, CHUNKED: 503, OTHER: 200}


class Wire(asyncio.Transport):
    """A transport that records what a connection writes, and when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self._wrote = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self._wrote.set()

    def close(self) -> None:
        self.closed = True
        self._wrote.set()

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    @property
    def statuses(self) -> list[int]:
        """Return the statuses of all answers so far."""
        return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", self.written)]

    async def answers(self, count: int) -> list[int]:
        """Return the statuses, once there are `count` of them."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while len(self.statuses) < count and not self.closed:
                self._wrote.clear()
                await self._wrote.wait()
        return self.statuses


class Crowded:
    """A connection to a server with capacity for `free` requests to /crowded, at first 0."""

    def __init__(self, gate: AdmissionGate | None = None) -> None:
        self.handled: list[str] = []
        self.free = 0
        self.gate = gate or AdmissionGate(self._reject)
        server = web.Server(self._handle)
        options: dict[str, Any] = {"access_log": None, "lingering_time": 0}
        loop = asyncio.get_running_loop()
        self.wire = Wire()
        self.connection = Connection(
            server, 1, ConnectionLimit(), {("POST", "/crowded"): self.gate}, loop=loop, **options
        )
        self.connection.connection_made(self.wire)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        await request.read()
        self.handled.append(request.path)
        return web.Response(status=503 if request.path == "/crowded" else 200)

    def _reject(self, _message: RawRequestMessage, pending: int) -> bytes | None:
        return REFUSED if self.free <= pending else None

    async def idle(self) -> None:
        """Wait until the connection's task is idle; by then every handled request is answered."""
        seen = len(self.wire.statuses)
        self.connection.data_received(OTHER)
        await self.wire.answers(seen + 1)
        await rounds(5)

    def close(self) -> None:
        self.connection.connection_lost(None)


async def rounds(count: int) -> None:
    """Let the event loop run this many iterations."""
    for _ in range(count):
        await asyncio.sleep(0)


def cut(data: bytes, offsets: Sequence[int]) -> list[bytes]:
    """Split the data into pieces."""
    edges = [0, *sorted(offset for offset in set(offsets) if 0 < offset < len(data)), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(
    st.lists(st.sampled_from([CROWDED, CHUNKED, OTHER]), min_size=1, max_size=6),
    st.lists(st.integers(1, 1000), max_size=8),
    st.lists(st.integers(0, 6), min_size=9, max_size=9),
)
def test_every_request_is_answered_once_and_in_order(
    requests: list[bytes], offsets: list[int], pauses: list[int]
) -> None:
    async def scene() -> None:
        crowded = Crowded()
        for piece, pause in zip(cut(b"".join(requests), offsets), pauses, strict=False):
            crowded.connection.data_received(piece)
            await rounds(pause)
        expected = [STATUSES[request] for request in requests]
        assert await crowded.wire.answers(len(expected)) == expected
        await crowded.idle()  # any remaining request would be answered before this
        assert crowded.wire.statuses == [*expected, 200]
        crowded.close()

    asyncio.run(scene())


async def test_whole_request_without_capacity_is_rejected_before_its_handler() -> None:
    crowded = Crowded()
    crowded.connection.data_received(CROWDED)  # the first on its connection
    assert crowded.wire.statuses == [503]
    crowded.connection.data_received(OTHER)
    await crowded.wire.answers(2)
    for count in range(1, 4):  # the first of them as soon as the answer before it is written
        crowded.connection.data_received(CROWDED)
        assert crowded.wire.statuses == [503, 200, *[503] * count]
    await rounds(5)
    assert crowded.handled == ["/other"]
    crowded.close()


async def test_request_whose_end_comes_before_its_task_has_run_is_answered_once() -> None:
    crowded = Crowded()
    await crowded.idle()
    crowded.connection.data_received(CROWDED[:-1])  # wakes the task
    crowded.connection.data_received(CROWDED[-1:])
    await rounds(5)
    await crowded.idle()
    assert crowded.wire.statuses == [200, 503, 200]
    crowded.close()


async def test_request_behind_one_that_is_handled_is_answered_after_it() -> None:
    crowded = Crowded()
    crowded.connection.data_received(OTHER[:-1])
    await rounds(5)  # its handler waits for the rest
    crowded.connection.data_received(OTHER[-1:] + CROWDED)
    assert await crowded.wire.answers(2) == [200, 503]
    crowded.close()


async def test_request_whose_body_still_comes_is_answered_once_it_is_whole() -> None:
    """Nobody would read the rest of a large body, and the library would stop reading the connection."""
    crowded = Crowded()
    crowded.connection.data_received(CROWDED[:-1])
    await rounds(5)
    assert crowded.wire.statuses == []
    crowded.connection.data_received(CROWDED[-1:])
    assert await crowded.wire.answers(1) == [503]
    assert crowded.handled == ["/crowded"]
    crowded.close()


async def test_burst_is_admitted_up_to_the_free_capacity() -> None:
    first = Crowded()
    first.free = 2
    others = [Crowded(first.gate) for _ in range(3)]
    for crowded in (first, *others):
        crowded.connection.data_received(CROWDED)
    assert [crowded.wire.statuses for crowded in (first, *others)] == [[], [], [503], [503]]
    # Handled requests and closed connections are no longer pending.
    others[0].close()
    await first.wire.answers(1)
    assert first.handled == ["/crowded"]
    assert first.gate.pending == 0
    for crowded in (first, *others[1:]):
        crowded.close()


async def test_answers_to_a_client_that_does_not_read_are_bounded() -> None:
    crowded = Crowded()
    await crowded.idle()
    crowded.connection.pause_writing()
    for _ in range(100):
        crowded.connection.data_received(CROWDED)
        await rounds(5)
    assert len(crowded.wire.statuses) <= 2  # one was being sent when the client stopped reading
    crowded.connection.resume_writing()
    assert await crowded.wire.answers(101) == [200, *[503] * 100]
    crowded.close()


async def test_rejected_request_with_connection_close_is_closed() -> None:
    crowded = Crowded()
    await crowded.idle()
    crowded.connection.data_received(
        b"POST /crowded HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    await crowded.wire.answers(3)
    assert crowded.wire.statuses == [200, 503]
    assert crowded.wire.closed


@pytest.mark.parametrize("piece", [b"", b"abc"], ids=["nothing of the body", "a part of the body"])
async def test_client_may_close_within_a_body_that_was_answered_unread(piece: bytes) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=413)

    wire = Wire()
    connection = Connection(web.Server(answer), 1, ConnectionLimit(), {}, loop=asyncio.get_running_loop())
    connection.connection_made(wire)
    connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n" + piece)
    assert await wire.answers(1) == [413]
    await rounds(5)
    connection.eof_received()
    assert connection._body is not None
    assert connection._body.exception() is None, "what reads the rest would report it as a bug"
    assert connection._body.is_eof()
    connection.connection_lost(None)


async def test_nothing_follows_an_answer_that_ends_its_connection() -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        response = web.Response()
        response.force_close()
        return response

    wire, gates = Wire(), {("POST", "/crowded"): AdmissionGate(lambda *_: REFUSED)}
    connection = Connection(web.Server(answer), 1, ConnectionLimit(), gates, loop=asyncio.get_running_loop())
    connection.connection_made(wire)
    connection.data_received(OTHER)
    await wire.answers(1)
    connection.data_received(CROWDED)  # before the connection's task closes the transport
    await rounds(5)
    assert wire.statuses == [200]
    assert wire.closed
    connection.connection_lost(None)


HALF = b"POST /other HTTP/1.1\r\nHost:"


async def test_headers_that_are_not_complete_in_time_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    # A clock of its own: on a busy machine, the pause between two bytes could be as long as the limit.
    monkeypatch.setattr(loop, "time", lambda: now)
    silent, half, later, trickling = everyone = Crowded(), Crowded(), Crowded(), Crowded()
    half.connection.data_received(HALF)
    await later.idle()
    later.connection.data_received(HALF)
    await trickling.idle()
    pieces = itertools.chain([HALF], itertools.repeat(b"x"))
    for _ in range(20):
        assert not trickling.wire.closed
        trickling.connection.data_received(next(pieces))
        now += HEADERS_SECONDS / 20
        await rounds(5)
    now += 0.001
    await rounds(5)
    assert [crowded.wire.closed for crowded in everyone] == [True] * 4
    assert [crowded.wire.statuses for crowded in (silent, half, later, trickling)] == [[], [], [200], [200]]


async def test_complete_headers_are_never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow body and a pause between requests have time limits of their own."""
    monkeypatch.setattr(aiohttp_internals, "HEADERS_SECONDS", 0.05)
    idle, body, in_time = Crowded(), Crowded(), Crowded()
    await idle.idle()
    body.connection.data_received(OTHER[:-1])
    in_time.connection.data_received(HALF)
    in_time.connection.data_received(OTHER[len(HALF) :])
    await in_time.wire.answers(1)
    await asyncio.sleep(0.2)
    for crowded in (idle, body, in_time):
        assert not crowded.wire.closed
        await rounds(5)
    body.connection.data_received(OTHER[-1:])
    assert await body.wire.answers(1) == [200]
    in_time.connection.data_received(CROWDED)
    assert in_time.wire.statuses == [200, 503]
    for crowded in (idle, body, in_time):
        crowded.close()


async def test_connection_is_counted_once_during_and_after_its_handshake() -> None:
    limit = ConnectionLimit()
    handshake = Handshake(limit)
    assert limit.taken == 1
    loop = asyncio.get_running_loop()
    connection = Connection(web.Server(lambda _: web.Response()), 1, limit, {}, handshake, loop=loop)  # type: ignore[arg-type, return-value]
    connection.connection_made(Wire())
    assert limit.taken == 1
    handshake.end()  # the listener's task continues later
    assert limit.taken == 1
    connection.connection_lost(None)
    assert limit.taken == 0


async def test_closed_connection_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer refers to its connection, whose memory would be in use until it ends."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    call_at = loop.call_at

    def note(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*arguments, **options))
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", note)
    crowded = Crowded()
    crowded.connection.data_received(HALF)
    crowded.close()
    assert timers
    assert all(timer.cancelled() for timer in timers)
