"""A service limits its connections: it refuses further ones immediately, and no client waits long."""

import asyncio
import socket

import orjson
import pytest
import uvloop
from prometheus_client import REGISTRY

from shared.http import connection
from tests.infrastructure.databases import Database
from tests.infrastructure.services import migrate_service, serving
from tests.infrastructure.waiting import eventually

ASK = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_connection_too_many_is_answered_503_and_closed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # On uvloop, as in production: its transports are not asyncio's.
    uvloop.run(one_too_many(migrate_service("product", database), monkeypatch))


async def one_too_many(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving("product", url) as client:
        port = int(client.url.rpartition(":")[2])

        async def ask() -> bytes:
            """Return the answer; the connection stays open if the server allows it."""
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(ASK)
            async with asyncio.timeout(5):
                return await reader.read(65536)

        writers: list[asyncio.StreamWriter] = []
        monkeypatch.setattr(connection, "CONNECTIONS_MAX", 2)
        assert (await ask()).startswith(b"HTTP/1.1 200 ")
        assert (await ask()).startswith(b"HTTP/1.1 200 ")
        before = REGISTRY.get_sample_value("http_connections_refused_total") or 0.0
        head, _, body = (await ask()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in head
        assert b"Connection: close" in head
        assert orjson.loads(body)["type"] == "/problems/unavailable"
        assert REGISTRY.get_sample_value("http_connections_refused_total") == before + 1

        writers[0].close()

        async def is_served_again() -> bool:
            return (await ask()).startswith(b"HTTP/1.1 200 ")

        await eventually(is_served_again, 5, "a connection's place for another")
        for writer in writers:
            writer.close()


def test_connections_of_a_burst_are_accepted_several_at_a_time(database: Database) -> None:
    # On uvloop, as in production: its listeners accept one connection at a time.
    uvloop.run(a_burst(migrate_service("product", database)))


async def a_burst(url: str) -> None:
    async with serving("product", url) as client:
        port = int(client.url.rpartition(":")[2])
        # Nothing is accepted during this block: the service runs in this loop.
        burst = [socket.create_connection(("127.0.0.1", port)) for _ in range(128)]
        turns = 0
        for one in burst:
            one.setblocking(False)
            one.send(ASK)
        waiting = set(burst)
        async with asyncio.timeout(5):
            while waiting:
                await asyncio.sleep(0)
                turns += 1
                waiting = {one for one in waiting if not answered(one)}
        assert turns < len(burst) / 2
        for one in burst:
            one.close()


def answered(one: socket.socket) -> bool:
    """Return whether an answer has arrived."""
    try:
        return one.recv(65536).startswith(b"HTTP/1.1 200 ")
    except BlockingIOError:
        return False
