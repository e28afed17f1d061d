"""A way to Postgres that loses a connection at a COMMIT: before the server hears of it, or before it is heard."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import urlsplit

CHUNK = 65536
COMMIT = b"COMMIT;\0"  # asyncpg's, a simple query


class Cut(Enum):
    """Where the connection breaks."""

    BEFORE = auto()  # the server rolls back
    AFTER = auto()  # it has committed, and nobody hears of it


@dataclass(slots=True)
class Way:
    """The way to the server. `cut` says what becomes of the next commit; the one after that is left alone."""

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
    """Open a way to the server at `url`."""
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

    async def ask(self) -> None:
        """Pass on what the client sends, until it is a commit that shall break."""
        with suppress(OSError):
            while data := await self._client[0].read(CHUNK):
                if COMMIT in data and self._way.cut is not None:
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

    async def answer(self) -> None:
        """Pass on what the server answers, unless it is to a commit that breaks."""
        with suppress(OSError):
            while data := await self._server[0].read(CHUNK):
                if self._deaf:
                    break
                self._client[1].write(data)
        self._break()

    def _break(self) -> None:
        for _, writer in (self._client, self._server):
            writer.transport.abort()
