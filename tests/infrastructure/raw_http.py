"""Sends requests as bytes, also malformed ones, and reads the answers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

ANSWER_SECONDS = 10


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """Status, headers in lower case, and the body's bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """Return the problem; fail unless the answer has the format of every error."""
        assert self.headers["content-type"].startswith("application/problem+json"), self
        found: dict[str, Any] = json.loads(self.body)
        assert {"type", "title", "status", "detail", "instance"} <= set(found), self
        assert found["status"] == self.status, self
        return found


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection; yield its reader and writer."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader, *, to_head: bool = False) -> RawAnswer:
    """Read one answer. With `to_head` it has no body, even if it has a length."""
    async with asyncio.timeout(ANSWER_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = b"" if to_head else await reader.readexactly(int(headers.get("content-length", 0)))
    return RawAnswer(int(head[0].split()[1]), headers, body)


async def send(url: str, data: bytes) -> RawAnswer:
    """Send bytes and read the answer."""
    async with connected(url) as (reader, writer):
        writer.write(data)
        return await read_answer(reader)


async def converse(url: str, data: bytes, count: int, *, half_close: bool = False) -> tuple[list[RawAnswer], bytes]:
    """Send bytes; return `count` answers, and the further bytes until the connection ends.

    The client closes its sending side immediately (`half_close`), or once it has its answers.
    """
    async with connected(url) as (reader, writer):
        writer.write(data)
        if half_close:
            writer.write_eof()
        answers = [await read_answer(reader) for _ in range(count)]
        with contextlib.suppress(OSError):
            writer.write_eof()
        async with asyncio.timeout(ANSWER_SECONDS):
            return answers, await reader.read(-1)
