"""A proxy for a Kafka broker that reads its requests: at a chosen one, a test may cut, delay or answer."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, IntEnum, auto

HEAD = struct.Struct(">hhi")  # api, version, correlation id
SIZE = struct.Struct(">i")


class Api(IntEnum):
    """Requests of a transaction, by their number in Kafka's protocol."""

    PRODUCE = 0
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS = 24
    END_TRANSACTION = 26


class Stage(Enum):
    """The stages of a request at which a trap is called."""

    REQUEST = auto()  # the broker has not received it yet
    ANSWER = auto()  # the broker has answered, and the client has not received the answer


class Cut(Exception):  # noqa: N818 - a word of a trap
    """Raised by a trap to reset the connection."""


# A trap raises Cut, waits, or returns an answer in place of the broker's; None lets the request pass.
Trap = Callable[[int, Stage, bytes], Awaitable[bytes | None]]


class KafkaProxy:
    """The proxy of one broker, which must advertise the proxy's address."""

    def __init__(self, port: int, upstream: int, trap: Trap) -> None:
        self._port = port
        self._upstream = upstream
        self.trap = trap
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "KafkaProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
            ends.append(upstream)
            asked: dict[int, int] = {}
            ways = [self._requests(reader, upstream, writer, asked), self._answers(answers, writer, asked)]
            running = [asyncio.create_task(way) for way in ways]
            try:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in running:
                    way.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self._tasks.discard(task)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
        asked: dict[int, int],
    ) -> None:
        with suppress(Cut, asyncio.IncompleteReadError, OSError):
            while True:
                frame = await _frame(reader)
                api, _, correlation = HEAD.unpack_from(frame)
                answer = await self.trap(api, Stage.REQUEST, frame)
                if answer is not None:
                    writer.write(SIZE.pack(len(answer)) + answer)
                    continue
                asked[correlation] = api
                upstream.write(SIZE.pack(len(frame)) + frame)
                await upstream.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, int]) -> None:
        with suppress(Cut, asyncio.IncompleteReadError, OSError):
            while True:
                frame = await _frame(reader)
                api = asked.pop(SIZE.unpack_from(frame)[0])
                answer = await self.trap(api, Stage.ANSWER, frame)
                frame = frame if answer is None else answer
                writer.write(SIZE.pack(len(frame)) + frame)
                await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = SIZE.unpack(await reader.readexactly(SIZE.size))
    return await reader.readexactly(size)


def all_refused(request: bytes, code: int, holding: bytes = b"") -> bytes:
    """Return an answer to a Produce request (version 3 to 8) that the broker never received.

    It refuses the records of partitions that contain these bytes, and confirms the others.
    """
    fields = _Fields(request)
    fields.text()  # client id
    fields.text()  # transactional id
    fields.skip(6)  # acks, timeout
    version = HEAD.unpack_from(request)[1]
    answer = SIZE.pack(HEAD.unpack_from(request)[2])
    count = fields.number()
    answer += SIZE.pack(count)
    for _ in range(count):
        answer += fields.text()
        partitions = fields.number()
        answer += SIZE.pack(partitions)
        for _ in range(partitions):
            answer += SIZE.pack(fields.number())
            answer += struct.pack(">hqq", code if holding in fields.records() else 0, -1, -1)
            answer += struct.pack(">q", -1) if version >= 5 else b""
            answer += struct.pack(">ih", 0, -1) if version >= 8 else b""
    return answer + SIZE.pack(0)


def first_refused(answer: bytes, code: int) -> bytes:
    """Return the broker's answer to a Produce request, with an error for the first partition."""
    correlation_and_count = 8
    (length,) = struct.unpack_from(">h", answer, correlation_and_count)
    at = correlation_and_count + 2 + length + 8  # behind the number of partitions and the first one's index
    return answer[:at] + struct.pack(">h", code) + answer[at + 2 :]


class _Fields:
    """Reads the fields of a request, beginning with the client id."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._at = HEAD.size

    def text(self) -> bytes:
        """Return the next text, with its length."""
        (length,) = struct.unpack_from(">h", self._request, self._at)
        start, self._at = self._at, self._at + 2 + max(0, length)
        return self._request[start : self._at]

    def records(self) -> bytes:
        """Return the next records."""
        size = self.number()
        self.skip(size)
        return self._request[self._at - size : self._at]

    def number(self) -> int:
        """Return the next number of four bytes."""
        (number,) = SIZE.unpack_from(self._request, self._at)
        self._at += 4
        return int(number)

    def skip(self, count: int) -> None:
        """Skip bytes."""
        self._at += count
