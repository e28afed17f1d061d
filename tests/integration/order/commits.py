"""A proxy for Postgres that breaks a connection at a commit: before the server gets it, or before the client does.

A commit is a COMMIT, or the execution of a statement that writes outside a transaction block.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import urlsplit

CHUNK = 65536
ASKS_FOR_TLS = (80877103).to_bytes(4, "big")
HEADER = 5  # a message's type and length
WRITES = re.compile(rb"\b(INSERT INTO|UPDATE) ")


class Cut(Enum):
    """The points at which the connection breaks."""

    BEFORE = auto()  # the server rolls back
    AFTER = auto()  # the server has committed, and the client gets no answer


@dataclass(slots=True)
class Way:
    """A proxy of the server. `cut` breaks the next commit; later commits pass."""

    url: str
    cut: Cut | None = None
    cuts: int = 0
    for_ever: bool = False

    @contextmanager
    def always(self, cut: Cut) -> Iterator[None]:
        """Break every commit while the body runs."""
        self.cut, self.for_ever = cut, True
        try:
            yield
        finally:
            self.cut, self.for_ever = None, False


@asynccontextmanager
async def breaking_commits(url: str) -> AsyncIterator[Way]:
    """Open a proxy of the server at `url`."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    way = Way("")
    pumps: set[asyncio.Task[None]] = set()

    async def accept(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(parts.hostname, parts.port)
        link = _Link(way, (client, to_client), (server, to_server))
        for pump in (link.ask(), link.answer()):
            pumps.add(asyncio.create_task(pump))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    user = parts.netloc.rpartition("@")[0]
    way.url = parts._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
    try:
        yield way
    finally:
        listener.close()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    def __init__(self, way: Way, client: Side, server: Side) -> None:
        self._way, self._client, self._server = way, client, server
        self._deaf = False
        self._unread = bytearray()
        self._started = self._in_transaction = False
        self._writing: dict[bytes, bool] = {}

    async def ask(self) -> None:
        """Forward the client's messages, up to a commit that must break."""
        with suppress(OSError):
            while data := await self._client[0].read(CHUNK):
                if self._commits(data) and self._way.cut is not None:
                    cut = self._way.cut
                    if not self._way.for_ever:
                        self._way.cut = None
                    self._way.cuts += 1
                    if cut is Cut.BEFORE:
                        break
                    self._deaf = True
                self._server[1].write(data)
        if not self._deaf:
            self._break()

    def _commits(self, data: bytes) -> bool:
        """Parse the protocol's messages (type, length, body); return whether one of them is a commit."""
        self._unread += data
        commits = False
        while len(self._unread) >= HEADER and not self._starting_up():
            end = 1 + int.from_bytes(self._unread[1:HEADER], "big")
            if len(self._unread) < end:
                break
            commits = self._is_commit(bytes(self._unread[:1]), bytes(self._unread[HEADER:end])) or commits
            del self._unread[:end]
        return commits

    def _starting_up(self) -> bool:
        """Drop the bytes before the first message with a type; return whether more of them will come."""
        while not self._started:
            end = int.from_bytes(self._unread[:4], "big")
            if len(self._unread) < max(end, 8):
                return True
            self._started = bytes(self._unread[4:8]) != ASKS_FOR_TLS
            del self._unread[:end]
        return len(self._unread) < HEADER

    def _is_commit(self, kind: bytes, body: bytes) -> bool:
        if kind == b"Q":
            word = body.split(None, 1)[0].rstrip(b";\0")
            self._in_transaction = word == b"BEGIN" or (self._in_transaction and word not in (b"COMMIT", b"ROLLBACK"))
            return word == b"COMMIT"
        if kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self._writing[name] = WRITES.search(sql) is not None
        return kind == b"B" and not self._in_transaction and self._writing.get(body.split(b"\0", 2)[1], False)

    async def answer(self) -> None:
        """Forward the server's answers, except to a commit that breaks."""
        with suppress(OSError):
            while data := await self._server[0].read(CHUNK):
                if self._deaf:
                    break
                self._client[1].write(data)
        self._break()

    def _break(self) -> None:
        for _, writer in (self._client, self._server):
            writer.transport.abort()
