"""The server speaks TLS on real sockets, with both event loops."""

import asyncio
import errno
import json
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import uvloop
from prometheus_client import REGISTRY

from shared import tls
from shared.http import connection, tls_listener
from shared.http.connection import ConnectionLimit, Handshake
from shared.http.tls_listener import TlsListener
from shared.tls import TlsFiles
from tests.infrastructure.authority import Authority
from tests.infrastructure.services import SCHEMAS, SERVICES_FOLDER
from tests.infrastructure.waiting import eventually, wait_until
from tests.integration.http.serving import Served, serving

HANDSHAKE_SECONDS = 3.0
SECONDS = 5  # enough for any answer

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass(frozen=True, slots=True)
class Https:
    """A running server, and the authority that signed its certificate."""

    served: Served
    authority: Authority

    @property
    def address(self) -> tuple[str, int]:
        """Return the server's host and port."""
        parts = urlsplit(self.served.url)
        return str(parts.hostname), int(parts.port or 0)

    @property
    def open_connections(self) -> float:
        """Return how many connections the server counts, as its metric tells."""
        found = REGISTRY.get_sample_value("http_connections_open", {"listener": "things"})
        assert found is not None
        return found

    def context(self) -> ssl.SSLContext:
        """Return the context of a client that trusts the authority."""
        found = tls.client(TlsFiles(authorities=str(self.authority.file)))()
        assert isinstance(found, ssl.SSLContext)
        return found

    def connect(self) -> ssl.SSLSocket:
        """Return a new connection after its handshake."""
        plain = socket.create_connection(self.address, timeout=SECONDS)
        return self.context().wrap_socket(plain, server_hostname="127.0.0.1")

    def session(self) -> aiohttp.ClientSession:
        """Return a client."""
        connector = aiohttp.TCPConnector(ssl=self.context())
        return aiohttp.ClientSession(self.served.url.replace("http:", "https:"), connector=connector)


@pytest.fixture
def short_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server that is started after it wait less for handshakes."""
    monkeypatch.setattr(tls_listener, "HANDSHAKE_SECONDS", HANDSHAKE_SECONDS)


@pytest.fixture(params=LOOPS)
def https(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Https]:
    """Serve with TLS, on each kind of event loop."""
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0)
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    with serving(LOOPS[request.param], tls_certificate_file=certificate, tls_key_file=key) as served:
        running = Https(served, authority)
        assert is_served(running)  # by then the connection is accepted that asked whether the server listens
        wait_until(lambda: running.open_connections == 0, SECONDS, "the end of earlier connections")
        yield running
        wait_until(lambda: running.open_connections <= 0, SECONDS, "the end of all connections")
        assert running.open_connections == 0
        assert not served.bugs()


def get(opened: ssl.SSLSocket, path: str = "/livez") -> bytes:
    """Return the beginning of the answer to a request."""
    opened.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return opened.recv(65536)


def serial(opened: ssl.SSLSocket) -> object:
    """Return the serial number of the server's certificate."""
    return (opened.getpeercert() or {})["serialNumber"]


async def test_requests_are_answered_over_tls(https: Https) -> None:
    async with https.session() as http:
        async with http.get("/v1/things") as answer:
            assert (answer.status, await answer.json()) == (200, {"items": ["cup"]})
        async with http.post("/v1/things", json={"name": "x" * 5_000}) as answer:
            assert answer.status == 201
        async with http.post("/v1/things/crowd", json={"name": "cup"}) as answer:
            assert answer.status == 503  # it is rejected before its task is woken


def test_open_connections_stay_and_new_ones_get_the_replaced_certificate(https: Https) -> None:
    with https.connect() as old:
        assert get(old).startswith(b"HTTP/1.1 200")
        https.authority.issue("server")
        assert get(old).startswith(b"HTTP/1.1 200")
        with https.connect() as new:
            assert get(new).startswith(b"HTTP/1.1 200")
            assert serial(new) != serial(old)


def test_plain_request_is_refused_and_others_are_served(https: Https) -> None:
    with socket.create_connection(https.address, timeout=SECONDS) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(65536)
    with https.connect() as opened:
        assert get(opened).startswith(b"HTTP/1.1 200")


def ends_at_once(opened: socket.socket) -> bool:
    """Return whether the server has closed the connection, without an answer, before a handshake takes too long."""
    opened.settimeout(HANDSHAKE_SECONDS / 2)
    with suppress(ConnectionResetError):
        return opened.recv(1) == b""
    return True


def refused() -> float:
    return REGISTRY.get_sample_value("http_connections_refused_total") or 0.0


def is_served(https: Https) -> bool:
    """Return whether a new connection is answered."""
    with suppress(OSError), https.connect() as opened:
        return get(opened).startswith(b"HTTP/1.1 200")
    return False


@pytest.mark.usefixtures("short_handshakes")
def test_client_that_begins_no_handshake_is_closed_and_counts_until_then(
    https: Https, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS_MAX", 2)
    silent = [socket.create_connection(https.address, timeout=SECONDS) for _ in range(2)]
    before = refused()
    for count in range(1, 4):
        with socket.create_connection(https.address, timeout=SECONDS) as beyond:
            assert ends_at_once(beyond)
            assert refused() == before + count
    for one in silent:
        assert one.recv(1) == b""
        one.close()
    wait_until(lambda: https.open_connections == 0, SECONDS, "free places")  # a client may see the end first
    with https.connect() as opened, https.connect() as other:
        assert get(opened).startswith(b"HTTP/1.1 200")
        assert get(other).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"], ids=["silent", "half", "plain"])
def test_failed_handshake_counts_no_longer_than_its_connection(
    https: Https, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS_MAX", 4)
    for _ in range(50):
        with socket.create_connection(https.address, timeout=SECONDS) as opened, suppress(ConnectionError):
            opened.sendall(sent)
    wait_until(lambda: is_served(https), HANDSHAKE_SECONDS / 2, "a free place")


def test_listener_without_descriptors_accepts_again_later(https: Https, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_listener, "RETRY_SECONDS", 0.1)
    failures = iter([OSError(errno.EMFILE, "Too many open files")] * 2)
    accept = socket.socket.accept

    def scarce(listening: socket.socket) -> tuple[socket.socket, Any]:
        for failure in failures:
            raise failure
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", scarce)
    assert is_served(https)
    assert [line["event"] for line in https.served.logs].count("connection.not_accepted") == 2


async def count_after_late_handshakes(context: ssl.SSLContext, client: ssl.SSLContext) -> list[int]:
    """Let clients begin their handshakes around the time limit; return the counts meanwhile, and after all."""
    limit, made = ConnectionLimit(), 0

    class Counted(asyncio.Protocol):
        def __init__(self, handshake: Handshake) -> None:
            self._handshake = handshake

        def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: ARG002 - the signature is asyncio's
            nonlocal made
            made += 1
            limit.taken += 1
            self._handshake.end()

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
            limit.leave()

    listener = TlsListener(context, limit, Counted, 1)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        await listener.listen([bound], 100)
        address = bound.getsockname()

    async def one(delay_seconds: float) -> None:
        plain = socket.create_connection(address)
        await asyncio.sleep(delay_seconds)
        with suppress(OSError):
            _, writer = await asyncio.open_connection(sock=plain, ssl=client, server_hostname="127.0.0.1")
            counts.append(limit.taken)
            writer.close()
            await writer.wait_closed()

    counts: list[int] = []
    late = tls_listener.HANDSHAKE_SECONDS
    await asyncio.gather(*[one(late * (0.5 + number / 50)) for number in range(50)])
    assert 0 < made < 50, "no handshake was late, or all"

    async def is_left() -> bool:
        return limit.taken <= 0

    await eventually(is_left, SECONDS, "the end of all connections")
    await listener.close()
    return [*counts, limit.taken]


@pytest.mark.parametrize("make_loop", LOOPS.values(), ids=LOOPS)
def test_count_is_exact_after_late_handshakes(
    make_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_listener, "HANDSHAKE_SECONDS", 0.3)
    authority = Authority(tmp_path)
    context = tls.server(TlsFiles(*authority.issue("server")))
    client = tls.client(TlsFiles(authorities=str(authority.file)))()
    assert isinstance(client, ssl.SSLContext)
    with asyncio.Runner(loop_factory=make_loop) as runner:
        counts = runner.run(count_after_late_handshakes(context, client))
    assert min(counts) == counts[-1] == 0


@pytest.mark.parametrize("make_loop", LOOPS.values(), ids=LOOPS)
def test_stop_closes_connections_in_their_handshake(
    make_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    certificate, key = Authority(tmp_path).issue("server")
    with serving(make_loop, tls_certificate_file=certificate, tls_key_file=key) as served:
        address = urlsplit(served.url)
        silent = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=SECONDS)
        begun = time.monotonic()
    with silent:
        assert ends_at_once(silent)
    assert time.monotonic() - begun < HANDSHAKE_SECONDS


def test_handshake_counts_no_longer_than_its_connection(https: Https, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS_MAX", 4)  # two of the round before may not be closed yet
    for _ in range(5):
        with https.connect() as first, https.connect() as second:
            assert get(first).startswith(b"HTTP/1.1 200")
            assert get(second).startswith(b"HTTP/1.1 200")


def test_client_that_closes_after_its_request_harms_nobody(https: Https, caplog: pytest.LogCaptureFixture) -> None:
    opened = https.connect()
    opened.sendall(b"GET /v1/things/slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert https.served.begun.wait(SECONDS)
    with suppress(OSError):
        opened.unwrap()  # waits for the server's end
    opened.close()
    assert not caplog.records
    https.served.finish.set()
    with https.connect() as other:
        assert get(other).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("https", ["uvloop"], indirect=True)
@pytest.mark.parametrize("service", SCHEMAS)
def test_health_check_of_the_image_asks_over_tls_if_the_service_speaks_it(https: Https, service: str) -> None:
    dockerfile = (SERVICES_FOLDER / service / "Dockerfile").read_text()
    found = re.search(r"HEALTHCHECK .*\n  CMD (\[.*\])", dockerfile)
    assert found is not None
    _, *command = json.loads(found[1])
    port = {f"{service.upper()}_INTERNAL_PORT": str(https.address[1])}
    with_tls = {**port, f"{service.upper()}_TLS_CERTIFICATE_FILE": "given"}
    assert subprocess.run([sys.executable, *command], env=with_tls, check=False).returncode == 0
    assert subprocess.run([sys.executable, *command], env=port, check=False, capture_output=True).returncode == 1
