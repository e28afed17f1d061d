"""A TCP proxy between a service and a server; a test can interrupt it."""

import asyncio
from contextlib import suppress
from enum import Enum, auto

CHUNK = 65536


class Mode(Enum):
    """What the proxy does at present."""

    OPEN = auto()
    CLOSED = auto()  # every connection is reset immediately, before anything is sent
    SILENT = auto()  # requests do not arrive, and connections stay open: a timeout
    DEAF = auto()  # requests arrive and answers are lost: applied, but unknown to the client


class Proxy:
    """The proxy of one server. It starts as OPEN; `url` is the address for clients."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._mode = Mode.OPEN
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.port = 0
        self.lost = 0  # bytes of answers that never arrived

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Return the address for HTTP clients."""
        return f"http://127.0.0.1:{self.port}"

    def lead_to(self, host: str, port: int) -> None:
        """Connect new connections to another server, like a changed DNS name. Existing connections stay."""
        self._upstream = (host, port)

    def set(self, mode: Mode) -> None:
        """Change the mode. A change back to OPEN resets connections that have lost or delayed data."""
        if mode is self._mode:
            return
        if Mode.OPEN in (mode, self._mode) and mode not in (Mode.SILENT, Mode.DEAF):
            self.cut()
        self._mode = mode
        if mode is Mode.SILENT:
            self._open.clear()
        else:
            self._open.set()

    def cut(self) -> int:
        """Reset every connection; return how many there were, counting both ends."""
        cut = len(self._writers)
        for writer in list(self._writers):
            writer.transport.abort()
        return cut // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self._mode is Mode.CLOSED:
                return
            await self._open.wait()
            answers, upstream = await asyncio.open_connection(*self._upstream)
            self._writers.add(upstream)
            await asyncio.gather(self._pump(reader, upstream, asks=True), self._pump(answers, writer, asks=False))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, upstream):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, asks: bool) -> None:
        while data := await source.read(CHUNK):
            if not asks and self._mode is Mode.DEAF:
                self.lost += len(data)
                continue
            if not self._open.is_set():
                await self._open.wait()
                raise ConnectionResetError  # delayed data is not delivered later
            sink.write(data)
            await sink.drain()
        with suppress(OSError):
            sink.write_eof()
