"""What clients get that are connecting, sending or waiting when the service stops.

Only on production's event loop: a server of asyncio that is closed loses connections that it has just accepted.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import pytest
import uvloop

from shared import tls
from shared.http import aiohttp_internals, tls_listener
from shared.tls import TlsFiles
from tests.infrastructure.authority import Authority
from tests.infrastructure.raw_http import connected, read_answer
from tests.infrastructure.waiting import eventually, wait_until
from tests.integration.http.messages import LENGTH, THING, get, post
from tests.integration.http.serving import Served, serving

SECONDS = 5.0
PATIENCE_SECONDS = 4.0
NEWCOMERS = 100


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server wait longer for clients, which are as slow as the machine is busy."""
    monkeypatch.setattr(aiohttp_internals, "FIRST_REQUEST_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(aiohttp_internals, "LAST_REQUESTS_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(tls_listener, "LAST_HANDSHAKES_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def served() -> Iterator[Served]:
    """Run a server that the test stops."""
    with serving(uvloop.new_event_loop) as served:
        yield served
        assert served.bugs() == []


def stop_during(served: Served, act: Callable[[], None]) -> None:
    """Stop the service, and run `act` before its event loop does anything else."""
    done = threading.Event()

    def both() -> None:
        act()
        served.stop.set()
        done.set()

    served.loop.call_soon_threadsafe(both)
    assert done.wait(SECONDS)


def is_closed(address: SplitResult) -> bool:
    """Return whether nobody listens there any more."""
    try:
        socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def read_all(opened: socket.socket) -> bytes:
    """Return what comes until the server closes."""
    return b"".join(iter(lambda: opened.recv(65536), b""))


def test_clients_that_connected_just_before_the_stop_are_answered(served: Served) -> None:
    address = urlsplit(served.url)
    with ExitStack() as stack:
        opened: list[socket.socket] = []

        def connect() -> None:
            for _ in range(NEWCOMERS):
                one = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=SECONDS)
                opened.append(stack.enter_context(one))

        stop_during(served, connect)
        wait_until(lambda: is_closed(address), SECONDS, "the end of the listener")
        for one in opened:  # their first requests come after the stop
            one.sendall(post(LENGTH, THING))
        for one in opened:
            answer = read_all(one)
            assert answer.startswith(b"HTTP/1.1 201")
            assert b"\r\nConnection: close\r\n" in answer


def test_client_that_connected_with_tls_just_before_the_stop_is_answered(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    client = tls.client(TlsFiles(authorities=str(authority.file)))()
    assert isinstance(client, ssl.SSLContext)
    with (
        serving(uvloop.new_event_loop, tls_certificate_file=certificate, tls_key_file=key) as served,
        ExitStack() as stack,
    ):
        address = urlsplit(served.url)
        opened: list[socket.socket] = []

        def connect() -> None:
            one = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=SECONDS)
            opened.append(stack.enter_context(one))

        stop_during(served, connect)
        with client.wrap_socket(opened[0], server_hostname="127.0.0.1") as encrypted:
            encrypted.sendall(post(LENGTH, THING))
            assert encrypted.recv(65536).startswith(b"HTTP/1.1 201")


async def test_request_whose_body_is_on_its_way_at_the_stop_is_answered(served: Served) -> None:
    async with connected(served.url) as (reader, writer):
        writer.write(post(LENGTH, THING[:3]))
        await in_flight(served)
        served.loop.call_soon_threadsafe(served.stop.set)
        await turns(served, 50)  # and no connection meanwhile: the server would wait for its first request
        writer.write(THING[3:])
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["connection"]) == (201, "close")
    await refuses(served)


async def test_idle_connections_do_not_delay_the_stop(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp_internals, "FIRST_REQUEST_SECONDS", 0.0)  # as if it had connected earlier
    monkeypatch.setattr(aiohttp_internals, "LAST_REQUESTS_SECONDS", 10 * SECONDS)
    async with connected(served.url) as (silent, _), connected(served.url) as (reader, writer):
        writer.write(get())
        assert (await read_answer(reader)).status == 200
        served.loop.call_soon_threadsafe(served.stop.set)
        assert await asyncio.wait_for(silent.read(), SECONDS) == await asyncio.wait_for(reader.read(), SECONDS) == b""


async def test_announced_stop_closes_each_connection_with_its_next_answer(served: Served) -> None:
    async with connected(served.url) as (reader, writer):
        writer.write(get())
        assert "connection" not in (await read_answer(reader)).headers
        served.stop.announced = True
        writer.write(get())
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await reader.read() == b""
    async with connected(served.url) as (reader, writer):  # it still accepts connections, and says that it stops
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["connection"]) == (503, "close")


async def turns(served: Served, count: int) -> None:
    """Let the server's event loop turn so often: enough for all that the stop does without waiting."""
    for _ in range(count):
        turned = threading.Event()
        served.loop.call_soon_threadsafe(turned.set)
        assert await asyncio.to_thread(turned.wait, SECONDS)


async def in_flight(served: Served) -> None:
    """Wait until the server handles a request."""

    async def handles() -> bool:
        async with connected(served.url) as (reader, writer):
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return b"\nhttp_requests_in_flight 2.0\n" in (await read_answer(reader)).body

    await eventually(handles, SECONDS, "a request in flight")


async def refuses(served: Served) -> None:
    """Wait until the server accepts no more connections."""
    address = urlsplit(served.url)

    async def refused() -> bool:
        try:
            socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=SECONDS).close()
        except ConnectionRefusedError:
            return True
        return False

    await eventually(refused, SECONDS, "the end of the listener")
