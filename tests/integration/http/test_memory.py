"""A closed connection leaves nothing that only the garbage collector could free: a burst closes thousands at once.

Not so after invalid HTTP, a path that no route has, and a body that ends early: their errors refer to the connection.
"""

import asyncio
import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop

from shared.http.aiohttp_internals import Connection
from tests.infrastructure.waiting import wait_until
from tests.integration.http.serving import Served, serving

SECONDS = 5
POST = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}"
BODY = '{"name": "cup"}'


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def served(request: Any) -> Iterator[Served]:
    with serving(request.param) as running:
        yield running


@contextmanager
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def connections() -> int:
    return sum(isinstance(one, Connection) for one in gc.get_objects())


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ("", None),
        ("GET /v1/things HT", None),
        ("GET /v1/things HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (POST.format("/v1/things", len(BODY), BODY), 201),
        (POST.format("/v1/things/crowd", len(BODY), BODY), 503),
        (POST.format("/v1/things/crowd", len(BODY), BODY) * 2, 503),
    ],
    ids=["nothing", "half a head", "list", "bad host", "create", "refused", "refused twice"],
)
def test_closed_connection_is_freed_at_once(served: Served, sent: str, answer: int | None) -> None:
    place = urlsplit(served.url)
    with no_collections():
        for _ in range(3):
            with socket.create_connection((place.hostname, place.port or 0), timeout=SECONDS) as client:
                wait_until(lambda: connections() > 0, SECONDS, "the connection")
                client.sendall(sent.encode())
                if answer is not None:
                    assert client.recv(65_536).split()[1] == str(answer).encode()
        wait_until(lambda: connections() == 0, SECONDS, "the end of what belongs to the connections")
