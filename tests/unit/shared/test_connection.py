"""Requests without capacity are answered in order; whole ones without waking the connection's task."""

import asyncio
import itertools
import re
from collections.abc import Sequence

from aiohttp import web
from aiohttp.http import RawRequestMessage
from hypothesis import example, given
from hypothesis import strategies as st

from shared.http.connection import AdmissionGate, Connection, ConnectionLimit, unavailable
from shared.refusals import Unavailable

ANSWER_SECONDS = 5
REFUSED = unavailable(Unavailable("No capacity."), "/crowded", {})
BODY = b"POST /crowded HTTP/1.1\r\nHost: x\r\n\r\n"  # looks like a request, but is what one carries
CROWDED = b"POST /crowded HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"POST /crowded HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
OTHER = b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(CROWDED) + CROWDED
STATUSES = {CROWDED: 503, CHUNKED: 503, OTHER: 200}


class Wire(asyncio.Transport):
    """What a connection writes, and when it is closed."""

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
        """The statuses of all answers so far."""
        return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", self.written)]

    async def answers(self, count: int) -> list[int]:
        """The statuses, once there are so many."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while len(self.statuses) < count and not self.closed:
                self._wrote.clear()
                await self._wrote.wait()
        return self.statuses


class Crowded:
    """A connection of a server that has `free` capacity for requests to /crowded, at first none."""

    def __init__(self, gate: AdmissionGate | None = None) -> None:
        self.handled: list[str] = []
        self.free = 0
        self.gate = gate or AdmissionGate(self._reject)
        server = web.Server(self._handle)
        options = {"access_log": None, "lingering_time": 0}
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
        """Wait until the connection's task is idle; a request that was handled is answered by then."""
        seen = len(self.wire.statuses)
        self.connection.data_received(OTHER)
        await self.wire.answers(seen + 1)
        await rounds(5)

    def close(self) -> None:
        self.connection.connection_lost(None)


async def rounds(count: int) -> None:
    """Let the event loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The data in pieces."""
    edges = [0, *sorted(place for place in set(places) if 0 < place < len(data)), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(
    st.lists(st.sampled_from([CROWDED, CHUNKED, OTHER]), min_size=1, max_size=6),
    st.lists(st.integers(1, 1000), max_size=8),
    st.lists(st.integers(0, 6), min_size=9, max_size=9),
)
# Its end comes when its task has been woken for its beginning, and has not run yet.
@example([OTHER, CROWDED], [len(OTHER), len(OTHER) + len(CROWDED) - 1], [6, 0, 0])
def test_every_request_is_answered_once_and_in_order(
    requests: list[bytes], places: list[int], pauses: list[int]
) -> None:
    async def scene() -> None:
        crowded = Crowded()
        for piece, pause in zip(cut(b"".join(requests), places), pauses, strict=False):
            crowded.connection.data_received(piece)
            await rounds(pause)
        expected = [STATUSES[request] for request in requests]
        assert await crowded.wire.answers(len(expected)) == expected
        await crowded.idle()  # what was left over would be answered before this
        assert crowded.wire.statuses == [*expected, 200]
        crowded.close()

    asyncio.run(scene())


async def test_whole_request_without_capacity_is_answered_at_once_unhandled() -> None:
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
    assert len(crowded.wire.statuses) <= 2  # one was under way to the client when it turned out not to read
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
