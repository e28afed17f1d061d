"""Clients that take all connections of a service's public listener leave its other listeners alone."""

import contextlib
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import tls
from shared.tls import TlsFiles
from tests.infrastructure.authority import Authority
from tests.infrastructure.databases import Database
from tests.infrastructure.issuer import RSA, RULES, jwk_set
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import free_port, listens, wait_until

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 20
HEADERS_SECONDS = 3
HALF = b"GET /v1/orders HTTP/1.1\r\nHost:"
PARTICIPANTS = ("PRODUCT", "COUPON", "BALANCE")


@contextlib.contextmanager
def order_service(database: Database, folder: Path, descriptors: int, **further: str) -> Iterator[tuple[int, int, int]]:
    """Run the order service in jwt mode; yield the ports of its public, internal and admin listener.

    `further`: settings.
    """
    public, internal, admin = (free_port() for _ in range(3))
    (folder / "jwks").write_bytes(jwk_set(RSA))
    (folder / "secret").write_text(f"order {'s' * 40}\n")
    environment = {
        "PATH": os.environ["PATH"],
        "ORDER_DATABASE_URL": migrate_service("order", database),
        "AUTH_MODE": "jwt",
        "AUTH_ISSUER": RULES.issuer,
        "AUTH_AUDIENCE": RULES.audience,
        "AUTH_JWKS": str(folder / "jwks"),
        "ORDER_PORT": str(public),
        "ORDER_INTERNAL_PORT": str(internal),
        "ORDER_ADMIN_PORT": str(admin),
        **{f"ORDER_{name}_URL": "http://127.0.0.1:1" for name in PARTICIPANTS},
        **{f"ORDER_{name}_INTERNAL_SECRET_FILE": str(folder / "secret") for name in PARTICIPANTS},
        **further,
    }
    command = ["prlimit", f"--nofile={descriptors}:{descriptors}", sys.executable, "-m", "services.order"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=log, stderr=log) as process,
    ):
        try:
            for port in (public, internal, admin):
                wait_until(lambda port=port: listens("127.0.0.1", port), START_SECONDS, "the service")  # type: ignore[misc]
            yield public, internal, admin
        finally:
            process.kill()


def ask(port: int, path: str, context: ssl.SSLContext | None = None) -> int:
    """Return the status of the answer. `context`: for TLS."""
    scheme = "http" if context is None else "https"
    try:
        with urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}{path}", timeout=5, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def answered(connection: socket.socket) -> bytes:
    """Return what the service sends before it ends the connection; fail if it doesn't end it."""
    try:
        return b"".join(iter(lambda: connection.recv(65536), b""))
    except ConnectionResetError:
        return b""


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Allow this process more open files than a test usually needs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def send_half(stack: contextlib.ExitStack, port: int, clients: int) -> list[socket.socket]:
    """Let this many clients connect and send half of their headers."""
    slow = []
    for _ in range(clients):
        slow.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)))
        with contextlib.suppress(ConnectionError):  # it was one too many
            slow[-1].sendall(HALF)
    return slow


def is_full(stack: contextlib.ExitStack, port: int) -> bool:
    """Return whether a further client is refused."""
    return answered(stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))).startswith(b"HTTP/1.1 503 ")


@pytest.mark.usefixtures("many_descriptors")
def test_half_sent_headers_leave_probes_and_operators_alone(database: Database, tmp_path: Path) -> None:
    with order_service(database, tmp_path, 5_000) as (public, internal, admin), contextlib.ExitStack() as stack:
        wait_until(lambda: ask(internal, "/readyz") == 200, START_SECONDS, "the service")
        begun = time.monotonic()
        slow = send_half(stack, public, 4_200)
        for path in ("/livez", "/readyz", "/metrics"):
            assert ask(internal, path) == 200
            assert ask(admin, path) == 200
        assert is_full(stack, public)
        # They are closed in time, the first ones first, and then there is capacity for others.
        assert answered(slow[0]) == b""
        assert HEADERS_SECONDS - 0.5 < time.monotonic() - begun < HEADERS_SECONDS + 5
        wait_until(lambda: ask(public, "/openapi.json") == 200, HEADERS_SECONDS + 5, "capacity")


def test_full_listeners_leave_descriptors_for_another_and_the_database(database: Database, tmp_path: Path) -> None:
    with order_service(database, tmp_path, 512) as (public, internal, admin), contextlib.ExitStack() as stack:
        wait_until(lambda: ask(internal, "/readyz") == 200, START_SECONDS, "the service")
        send_half(stack, public, 450)
        send_half(stack, internal, 150)
        assert is_full(stack, public)
        assert is_full(stack, internal)
        assert ask(admin, "/readyz") == 200


def test_clients_that_begin_no_tls_leave_descriptors_for_probes(database: Database, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    settings = {"ORDER_TLS_CERTIFICATE_FILE": certificate, "ORDER_TLS_KEY_FILE": key}
    context = tls.client(TlsFiles(authorities=str(authority.file)))()
    assert isinstance(context, ssl.SSLContext)
    with (
        order_service(database, tmp_path, 512, **settings) as (public, internal, admin),
        contextlib.ExitStack() as stack,
    ):
        wait_until(lambda: ask(internal, "/readyz", context) == 200, START_SECONDS, "the service")
        for _ in range(600):
            stack.enter_context(socket.create_connection(("127.0.0.1", public), timeout=10))
        assert answered(stack.enter_context(socket.create_connection(("127.0.0.1", public), timeout=1))) == b""
        assert ask(internal, "/readyz", context) == 200
        assert ask(admin, "/readyz", context) == 200
