"""A client that floods the gateway, or is slow, is refused itself; others don't notice."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from tests.infrastructure.gateway import SERVICES, RunningGateway, gateway
from tests.infrastructure.raw_http import RawAnswer, read_answer
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually
from tests.integration.http.messages import get
from tests.integration.http.upstream import upstream

CONNECTIONS_MAX = 128
BURST, TOKEN_BURST = 200, 100
FLOOD = 300
HEADER_SECONDS = 3
PATH = b"/v1/accounts/a"
HALF = b"GET /v1/accounts/a HTTP/1.1\r\nHost:"


def bearer(signature: bytes) -> bytes:
    return b"Authorization: Bearer a.b." + signature * 32 + b"\r\n"


# Of one token: a service reads the same from each of them.
SPELLINGS = [
    bearer(b"x").replace(old, new)
    for old, new in [
        (b"", b""),
        (b"Authorization: Bearer", b"aUTHORIZATION:bEARER"),
        (b"Bearer ", b"bearer  "),
        (b": ", b": \t "),
        (b"\r\n", b" \r\n"),
        (b"\r\n", b"\t\r\n"),
        (b"\r\n", b" \t \t\t\r\n"),
        (b"\r\n", b"\n"),
    ]
]


@pytest.fixture
def running(reaper: Reaper) -> Iterator[RunningGateway]:
    """Run the gateway with all its limits, and rates that grant nothing more during a test."""
    rates = {"rate=100r/s": "rate=1r/m", "rate=50r/s": "rate=1r/m"}
    with upstream() as url, gateway(dict.fromkeys(SERVICES, url), reaper, rates) as running:
        yield running


async def flood(running: RunningGateway, address: str, data: bytes) -> list[RawAnswer]:
    """Send the request many times on one connection; return the answers."""
    async with open_connection(running, running.behind) as (reader, writer):
        writer.write(b"PROXY TCP%d %s %s 40000 8080\r\n" % (6 if ":" in address else 4, address.encode(), b"::1"))
        writer.write(data * FLOOD)
        return [await read_answer(reader) for _ in range(FLOOD)]


@contextlib.asynccontextmanager
async def open_connection(
    running: RunningGateway, url: str | None = None, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the gateway from an address of this machine."""
    parts = urlsplit(url or running.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(address, 0), ssl=tls)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_address_that_floods_is_refused_and_others_are_not(running: RunningGateway) -> None:
    answers = await flood(running, "192.0.2.1", get(PATH))
    served = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(served) == BURST + 1
    assert {answer.status for answer in refused} == {429}
    assert {answer.problem["type"] for answer in refused} == {"/problems/too-many-requests"}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert all(answer.headers["x-request-id"] for answer in refused)
    for address in ("192.0.2.2", "2001:db8::1"):
        assert (await running.send_from(address, get(PATH))).status == 200


async def test_addresses_of_one_ipv6_network_share_a_limit(running: RunningGateway) -> None:
    await flood(running, "2001:db8:0:1::1", get(PATH))
    assert (await running.send_from("2001:db8:0:1:ffff::2", get(PATH))).status == 429
    assert (await running.send_from("2001:db8:0:2::1", get(PATH))).status == 200


async def test_token_that_floods_is_refused_from_every_address(running: RunningGateway) -> None:
    answers = await flood(running, "192.0.2.1", get(PATH, bearer(b"x")))
    assert [answer.status for answer in answers].count(200) == TOKEN_BURST + 1
    for header in SPELLINGS:
        assert (await running.send_from("192.0.2.2", get(PATH, header))).status == 429, header
    for header in (bearer(b"y"), b""):
        assert (await running.send_from("192.0.2.2", get(PATH, header))).status == 200


async def test_half_sent_headers_of_one_address_leave_others_alone(running: RunningGateway) -> None:
    host, port = urlsplit(running.url).netloc.split(":")
    held = []
    async with open_connection(running, address="127.0.0.2") as (reader, writer):
        writer.write(get(PATH))
        assert (await read_answer(reader)).status == 200
        begun = time.monotonic()
        try:
            for _ in range(8_400):
                connection = socket.create_connection((host, int(port)), timeout=5)
                held.append(connection)
                with contextlib.suppress(OSError):  # closed already
                    connection.sendall(HALF)
            writer.write(get(PATH))  # on the connection that was idle meanwhile
            assert (await read_answer(reader)).status == 200
            async with open_connection(running, address="127.0.0.3") as (another, sending):
                sending.write(get(PATH))
                assert (await read_answer(another)).status == 200
            # Of one address only so many stay, and these only for the time that headers may take.
            newest = held[-1]
            assert await asyncio.to_thread(is_ended, newest)
            assert time.monotonic() - begun < HEADER_SECONDS + 5
        finally:
            for connection in held:
                connection.close()


def is_ended(connection: socket.socket) -> bool:
    """Return whether the other side ends the connection within its time limit, without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


async def test_address_has_its_connections_again_once_the_slow_ones_end(running: RunningGateway) -> None:
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_connection(running)) for _ in range(CONNECTIONS_MAX + 10)]
        begun = time.monotonic()
        ended = [asyncio.create_task(until_end(reader, writer)) for reader, writer in opened]
        times = sorted([await task - begun for task in ended])
        assert sum(seconds < 1 for seconds in times) == 10
        assert all(HEADER_SECONDS - 0.5 < seconds < HEADER_SECONDS + 2 for seconds in times[10:])
        # A client may see the end of a connection before the gateway has counted it.
        await eventually(lambda: is_served(running), 5, "an answer")


async def is_served(running: RunningGateway) -> bool:
    async with open_connection(running) as (reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            writer.write(get(PATH))
            return (await read_answer(reader)).status == 200
    return False


async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """Send half of the headers; return when the gateway ends the connection. Then end it too."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        writer.write(HALF)
        assert await reader.read() == b""
    writer.transport.abort()
    return time.monotonic()
